"""Boilerplate: lines that many documents of a source have, which are removed.

A pass of its own counts in how many documents of a source each line is, before any other filter
runs. Documents that are equal count once. A line is told by the hash of what is left without the
white space around it. Hashes are sorted in a file of each unit; the driver adds up one part of them
after the other, so its memory does not grow with the number of different lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manta.config.filters import BoilerplateSection
from manta.corpus.documents import HASH_BYTES, first_occurrences
from manta.corpus.filters.filter_verdict import Keep, Verdict
from manta.corpus.filters.words import Uint64s
from manta.corpus.work_units import identified, rows
from manta.storage.atomic import whole_file

# Lines that are added up at once, at most.
PART_LINES = 1 << 24


def line_hash(line: str) -> int:
    """The hash of a line, given without the white space around it."""
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest())


def lines_file(work: Path, unit: int) -> Path:
    """File of a unit's lines, by document; it exists once they are counted."""
    return work / f"unit-{unit:06d}.lines.npz"


def count_lines(order: dict[str, Any]) -> dict[str, Any]:
    """The task of one unit: write the hashes of its lines, ascending, each with its document.

    `order` is that of `work_units.order`, with `lines` (file to write) and `characters` (of a line
    that counts, at least).
    """
    hashes, documents, lines = list[bytes](), list[int](), list[int]()
    for _, row in rows(order):
        if (identity := identified(row)) is None:
            continue
        distinct = {line.strip() for line in str(row).split("\n")}
        found = [line_hash(line) for line in distinct if len(line) >= order["characters"]]
        lines += found
        documents += [len(hashes)] * len(found)
        hashes.append(identity[0])
    ordered = np.argsort(np.array(lines, np.uint64), kind="stable")
    with whole_file(Path(order["lines"])) as file:
        np.savez(
            file,
            lines=np.array(lines, np.uint64)[ordered],
            documents=np.array(documents, np.uint32)[ordered],
            hashes=np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES),
        )
    return {"unit": order["unit"], "bytes": order["bytes"], "documents": len(hashes)}


def is_counted(path: Path) -> bool:
    """Whether a file of lines is there and undamaged; a damaged one is removed."""
    if not path.exists():
        return False
    try:
        with np.load(path) as arrays:
            for name in arrays.files:
                _ = arrays[name]
    except Exception:  # a damaged archive can raise almost any exception
        path.unlink()
        return False
    return True


def boilerplate_in(files: Sequence[Path], section: BoilerplateSection) -> Uint64s:
    """Hashes of the lines of a source that are boilerplate, ascending.

    Args:
        files: files of lines of the source's units.
        section: the config's section.
    """
    hashes, count = list[Any](), 0
    for path in files:
        with np.load(path) as arrays:
            hashes.append(arrays["hashes"])
            count += len(arrays["lines"])
    counts_once = first_occurrences(np.concatenate([np.empty((0, HASH_BYTES), np.uint8), *hashes]))
    begins = np.cumsum([0, *map(len, hashes)])
    least = max(section.documents, int(np.ceil(section.share * counts_once.sum())))
    parts = max(1, -(-count // PART_LINES))
    found = [np.empty(0, np.uint64)]
    for part in range(parts):
        low, high = 2**64 * part // parts, 2**64 * (part + 1) // parts - 1
        pieces = [
            lines[counts_once[begin + documents]]
            for begin, (lines, documents) in zip(
                begins[:-1].tolist(), _between(files, low, high), strict=True
            )
        ]
        lines, counts = np.unique(np.concatenate([found[0][:0], *pieces]), return_counts=True)
        found.append(lines[counts >= least])
    return np.concatenate(found)


def _between(
    files: Sequence[Path], low: int, high: int
) -> Iterator[tuple[Uint64s, NDArray[np.uint32]]]:
    """The lines of each file with a hash from `low` to `high`, and their documents."""
    for path in files:
        with np.load(path) as arrays:
            lines = arrays["lines"]
            first = np.searchsorted(lines, np.uint64(low), side="left")
            last = np.searchsorted(lines, np.uint64(high), side="right")
            yield lines[first:last], arrays["documents"][first:last]


class Boilerplate:
    """Removes the lines of a text that are boilerplate.

    Args:
        section: the config's section.
        lines: hashes of these lines.
    """

    name = "boilerplate"

    def __init__(self, section: BoilerplateSection, lines: Uint64s):
        self._characters = section.characters
        self._lines = frozenset(lines.tolist())

    def judge(self, text: str) -> Verdict:
        """The text without boilerplate; found: the number of lines."""
        if not self._lines:
            return Keep(text)
        lines = text.split("\n")
        kept = [line for line in lines if not self._is_boilerplate(line.strip())]
        removed = len(lines) - len(kept)
        return Keep("\n".join(kept), {"lines": removed}) if removed else Keep(text)

    def _is_boilerplate(self, line: str) -> bool:
        return len(line) >= self._characters and line_hash(line) in self._lines


@lru_cache(maxsize=4)
def stored_boilerplate(path: str, sha256: str, section: str) -> Boilerplate:
    """The filter of a file with hashes, made once a process; the hash keys the cache."""
    return Boilerplate(BoilerplateSection.model_validate_json(section), np.load(path))
