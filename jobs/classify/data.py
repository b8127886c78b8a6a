"""Functions of Python's standard library, labelled by the package that they are from.

    python jobs/classify/data.py [FILE.jsonl]

Real text that every machine has: a line for each function and method of some packages, with its
source as ``text`` and the package as ``label``.
"""

from __future__ import annotations

import ast
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

OUT = Path("corpora/functions.jsonl")
PACKAGES = ("asyncio", "email", "http", "logging", "multiprocessing", "tkinter", "unittest", "xml")
SHORTEST, LONGEST = 80, 1200  # characters


def main(out: Path) -> None:
    """Write the functions of all packages, in the order of their modules."""
    library = Path(sysconfig.get_paths()["stdlib"])
    records = [record for package in PACKAGES for record in records_of(library, package)]
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    out.write_text("".join(lines), encoding="utf-8")
    print(f"{out}: {len(records):,} functions of {len(PACKAGES)} packages")


def records_of(library: Path, package: str) -> Iterator[dict[str, str]]:
    """The functions of a package's modules, their tests left out."""
    for path in sorted((library / package).rglob("*.py")):
        if {"test", "tests"} & set(path.parts):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_source_segment(source, node) or ""
                if SHORTEST <= len(text) <= LONGEST:
                    yield {"text": text, "label": package}


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
