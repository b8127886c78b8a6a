"""Questions and answers about Python's standard library, from its own docstrings, as chats.

    python jobs/chat/data.py [FILE.jsonl]

Real text that every machine has: a line for each public function and class with a docstring, in the
shape that OpenAI's fine-tuning takes (``messages``).
"""

from __future__ import annotations

import ast
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

OUT = Path("corpora/chat.jsonl")
SHORTEST, LONGEST = 30, 400


def main(out: Path) -> None:
    """Write the chats of all modules, in the order of their names."""
    library = Path(sysconfig.get_paths()["stdlib"])
    chats = [chat for path in modules(library) for chat in chats_of(path, library)]
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"messages": chat}, ensure_ascii=False) + "\n" for chat in chats)
    out.write_text("".join(lines), encoding="utf-8")
    print(f"{out}: {len(chats):,} chats")


def modules(library: Path) -> list[Path]:
    """The modules of the library itself, without tests and what is installed beside it."""
    aside = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
    found = (path.relative_to(library) for path in library.rglob("*.py"))
    return sorted(path for path in found if not aside & set(path.parts))


def chats_of(path: Path, library: Path) -> Iterator[list[dict[str, str]]]:
    """A chat for each thing that a module documents: what it is, and how it is called."""
    try:
        tree = ast.parse((library / path).read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        said = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
        if not SHORTEST <= len(said) <= LONGEST:
            continue
        name = f"{module}.{node.name}"
        turns = [f"What does {name} do?", said]
        if isinstance(node, ast.FunctionDef):
            turns += ["How is it called?", f"{name}({ast.unparse(node.args)})"]
        roles = ("user", "assistant")
        yield [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
