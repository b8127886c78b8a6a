"""Tasks of the search for near-duplicates: sets of n-grams of candidates, and their similarity.

A file of candidates has, for some documents of a unit, the set of their n-grams as sorted hashes of
32 bits, where they stand in the input, and the start of their text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manta.corpus.filters.dropped import start_of
from manta.corpus.filters.minhash import shingles
from manta.corpus.filters.record_filter import said_in
from manta.corpus.filters.stored_texts import read_texts
from manta.corpus.leftovers import checksum
from manta.storage.atomic import whole_file

SCHEMA = pa.schema(
    [
        ("document", pa.int64()),
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("start", pa.string()),
        ("ngrams", pa.large_list(pa.uint32())),
    ]
)
# Few enough for the usual bound on a process's open files, 1,024.
OPEN_FILES = 256
Grams = NDArray[np.uint32]


class Standing(NamedTuple):
    """Where a document stands in its unit, and how it begins."""

    part: int
    row: int
    start: str


def candidates_file(work: Path, unit: int) -> Path:
    """File of the candidates of a unit."""
    return work / f"unit-{unit:06d}.candidates.arrow"


def write_candidates(order: dict[str, Any]) -> dict[str, Any]:
    """The task of one unit: write the documents in `wanted`, as indices in the unit.

    `order` has `texts` (file), `candidates` (file to write), `wanted` (indices, in order) and
    `words` (of an n-gram), beside what `work_units.order` gives.
    """
    wanted, rows = set(order["wanted"]), list[dict[str, Any]]()
    for document, (standing, text) in enumerate(standing_documents(order["texts"])):
        if document in wanted:
            grams = ngram_set(said_in(text) if order["records"] else text, order["words"])
            rows.append({"document": document, **standing._asdict(), "ngrams": grams})
    path = Path(order["candidates"])
    with whole_file(path) as file, pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    return {"unit": order["unit"], "bytes": order["bytes"], "sha256": checksum(path)}


def standing_documents(texts: str) -> Iterator[tuple[Standing, str]]:
    """Each document of a unit, with its place."""
    part_now, row = -1, 0
    for part, text in read_texts(texts):
        row = row + 1 if part == part_now else 0
        part_now = part
        if text is not None:
            yield Standing(part, row, start_of(text)), text


class Candidates:
    """The documents in a file of candidates."""

    def __init__(self, path: str):
        self._mapped = pa.memory_map(path)
        self._batch: Any = pa.ipc.open_file(self._mapped).get_batch(0)
        self._documents = self._batch.column("document").to_numpy()
        lists = self._batch.column("ngrams")
        self._parts = self._batch.column("part").to_numpy()
        self._rows = self._batch.column("row").to_numpy()
        self._offsets, self._grams = lists.offsets.to_numpy(), lists.values.to_numpy()

    def place_of(self, document: int) -> int:
        """Where a document of the unit is in the file."""
        return int(np.searchsorted(self._documents, document))

    def ngrams_of(self, document: int) -> Grams:
        """The sorted hashes of a document's n-grams."""
        place = self.place_of(document)
        found: Grams = self._grams[self._offsets[place] : self._offsets[place + 1]]
        return found

    def row_of(self, document: int) -> tuple[int, int]:
        """A document's part of the unit, and the number of its row in it."""
        place = self.place_of(document)
        return int(self._parts[place]), int(self._rows[place])

    def start_of(self, document: int) -> str:
        """How a document begins."""
        return str(self._batch.column("start")[self.place_of(document)])


def opened(path: str, sha256: str) -> Candidates:
    """A file of candidates with this checksum, opened once a process as long as it is the same."""
    return _opened(*_identity(path, sha256))


def _identity(path: str, sha256: str) -> tuple[str, str, int, int]:
    status = os.stat(path)
    return path, sha256, status.st_ino, status.st_mtime_ns


@lru_cache(maxsize=OPEN_FILES)
def _opened(path: str, sha256: str, inode: int, modified: int) -> Candidates:
    return Candidates(path)


def ngram_set(text: str, words: int) -> Grams:
    """The sorted hashes of a text's n-grams, each once."""
    return np.unique((shingles(text, words) >> np.uint64(32)).astype(np.uint32))


def jaccard(one: Grams, other: Grams) -> float:
    """The Jaccard similarity of two sets, given as sorted arrays without repetition; 0 of none."""
    if len(one) > len(other):
        one, other = other, one
    if not len(other):
        return 0.0
    places = np.searchsorted(other, one)
    places[places == len(other)] = 0
    common = int((other[places] == one).sum())
    return common / (len(one) + len(other) - common)


def compare_pairs(order: dict[str, Any]) -> dict[str, Any]:
    """The task of some pairs: their similarities.

    `order` has `pairs`: [unit, document, unit, document] of each, `files`: unit → path and
    checksum of its candidates, and `number` of the order.
    """
    files = {int(unit): _identity(*file) for unit, file in order["files"].items()}
    found = [
        jaccard(
            _opened(*files[unit]).ngrams_of(document), _opened(*files[other_unit]).ngrams_of(other)
        )
        for unit, document, other_unit, other in order["pairs"]
    ]
    done = {"number": order["number"], "bytes": order["bytes"]}
    return done | {"similarities": found}
