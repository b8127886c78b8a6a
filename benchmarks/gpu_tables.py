"""Results of `gpu_session.sh` as Markdown: part of it.

python benchmarks/gpu_tables.py tests FILE.xml      a row for each test, from pytest's XML
python benchmarks/gpu_tables.py speed FILE.json…    those of `gpu.py --out`, as one table a length
python benchmarks/gpu_tables.py columns             the columns of `gpu.py`, a line each
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "platform"), str(HERE)]


def tests(file: Path) -> list[str]:
    """A row for each test: what came of it, and why."""
    lines = ["| test | outcome | seconds | why |", "| --- | --- | --- | --- |"]
    for case in ElementTree.parse(file).iter("testcase"):
        found = next(
            (child for child in case if child.tag in ("failure", "error", "skipped")), None
        )
        outcome = "passed" if found is None else found.tag
        why = "" if found is None else (found.get("message") or "").splitlines()[0][:100]
        why = why.replace("|", "/")
        lines.append(
            f"| {case.get('name')} | {outcome} | {float(case.get('time', 0)):.1f} | {why} |"
        )
    return lines


def _in_short(text: str) -> str:
    return " ".join(text.split())[:100].replace("|", "/")


def speed(files: list[Path]) -> list[str]:
    """All columns that were measured, by length."""
    import gpu

    by_length: dict[str, dict[str, Any]] = defaultdict(dict)
    for file in files:
        for length, columns in json.loads(file.read_text()).items():
            by_length[length] |= columns
    lines = []
    for length, columns in sorted(by_length.items(), key=lambda item: int(item[0])):
        rows = {
            column: {loop: gpu.merged(results) for loop, results in loops.items()}
            for column, loops in columns.items()
        }
        lines += gpu.table(int(length), rows)
        lines += [f"LOSSES DIFFER: {problem}" for problem in gpu.check_losses(rows)]
    return lines


def columns() -> list[str]:
    """Those that tell most first."""
    from gpu_columns import COLUMNS

    first = ["compile", "eager", "bf16 weights", "chunk 512 MiB", "snapshots", "document mask"]
    return [*first, *(name for name in COLUMNS if name not in first)]


def main() -> None:
    """Print what is asked for."""
    what, *files = sys.argv[1:]
    paths = [Path(file) for file in files]
    lines = {"tests": lambda: tests(paths[0]), "speed": lambda: speed(paths), "columns": columns}
    print("\n".join(lines[what]()))


if __name__ == "__main__":
    main()
