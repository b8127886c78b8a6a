"""All the ways in which a file may be damaged, for tables of tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def _flip(content: bytes) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[len(changed) // 2] ^= 4
    return bytes(changed)


def _spoil_a_line(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    middle = len(lines) // 2
    return b"".join([*lines[:middle], b"spoiled\n", *lines[middle + 1 :]])


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) * 2 // 3],
    "zeroed": lambda content: bytes(len(content)),
    "one bit": _flip,
    "one line": _spoil_a_line,
}


def damaged(path: Path, damage: str) -> bool:
    """Damage a file; false if that changes nothing."""
    before = path.read_bytes()
    after = DAMAGES[damage](before)
    if after is None:
        path.unlink()
    elif after != before:
        path.write_bytes(after)
    return after != before
