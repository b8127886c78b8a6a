"""Training documents that share a run of words with an evaluation or with the test split.

As for GPT-3 (Brown et al. 2020, appendix C), a document is contaminated if it has an n-gram of
words of what a model is tested on, whatever its case and punctuation. It leaves the training split;
documents of other splits stay.

The n-grams of all that is looked for are one sorted file, 10 bytes each, that workers map.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from manta.config.filters import ContaminationSection
from manta.corpus.filters.candidates import standing_documents
from manta.corpus.filters.compared_units import ComparedUnits
from manta.corpus.filters.dropped import SHOWN_TEXT
from manta.corpus.filters.evaluations import EvaluationNgrams, ngrams_in
from manta.corpus.filters.record_filter import said_in
from manta.corpus.filters.stored_texts import documents_in
from manta.corpus.filters.words import Uint64s, ngrams, words_of
from manta.corpus.leftovers import checksum
from manta.storage.atomic import whole_file

TEST_SPLIT = "test split"
RESULT = "contamination.npz"
NGRAMS, OWNERS = "contamination.ngrams.npy", "contamination.owners.npy"
TRAIN, TEST = 0, 2  # indices in SPLITS
# N-grams are looked up in a table by so many of their bits first, as most are in no evaluation.
TABLE_BITS = 24


class Overlap(NamedTuple):
    """A training document that overlaps with what a model is tested on.

    Attributes:
        document: index of the document, in its unit or in canonical order.
        owner: index of the evaluation; that of the test split comes after all others.
        share: share of the document's n-grams that overlap.
        part: index of the document's part of the unit.
        row: number of the row in the part.
        text: text of the document around the first n-gram that overlaps.
    """

    document: int
    owner: int
    share: float
    part: int
    row: int
    text: str


class Decontamination:
    """The search for contaminated documents in a corpus.

    Args:
        section: the config's section.
        evaluations: n-grams of the evaluations that it names.
        units: units that the documents are in.
    """

    def __init__(
        self,
        section: ContaminationSection,
        evaluations: list[EvaluationNgrams],
        units: ComparedUnits,
    ):
        self._section, self._evaluations = section, evaluations
        self._work, self._begins = units.work, units.begins
        self._order, self._run = units.order, units.run

    @property
    def owners(self) -> list[str]:
        """Names of what is looked for, by their index."""
        return [*(one.name for one in self._evaluations), TEST_SPLIT]

    def found(self, live: NDArray[np.bool_], splits: NDArray[np.int8]) -> list[Overlap]:
        """The contaminated ones among the documents that are `live`, in canonical order."""
        path = self._work / RESULT
        if (before := _read(path)) is not None:
            return before
        self._write_index(live & (splits == TEST))
        settings = self._settings()
        orders = [
            self._order(unit) | settings | {"wanted": wanted}
            for unit, wanted in self._wanted(live & (splits == TRAIN))
        ]
        overlaps = [
            Overlap(int(self._begins[done["unit"]]) + document, *rest)
            for done in self._run(find_overlaps, orders)
            for document, *rest in done["overlaps"]
        ]
        overlaps.sort()
        with whole_file(path) as file:
            np.savez(file, overlaps=np.frombuffer(json.dumps(overlaps).encode(), np.uint8))
        return overlaps

    def _settings(self) -> dict[str, Any]:
        return {
            "ngrams": str(self._work / NGRAMS),
            "owners": str(self._work / OWNERS),
            "sha256": checksum(self._work / NGRAMS) + checksum(self._work / OWNERS),
            "words": self._section.words,
        }

    def _wanted(self, marks: NDArray[np.bool_]) -> Iterator[tuple[int, list[int]]]:
        """Units with marked documents, and these as indices in the unit."""
        for unit in range(len(self._begins) - 1):
            here = marks[self._begins[unit] : self._begins[unit + 1]]
            if here.any():
                yield unit, np.flatnonzero(here).tolist()

    def _write_index(self, tested: NDArray[np.bool_]) -> None:
        """Write the n-grams of all that is looked for, and what each is of."""
        parts = [one.ngrams for one in self._evaluations]
        counts, owners = [len(part) for part in parts], list(range(len(parts)))
        if self._section.test_split:
            orders = [
                self._order(unit)
                | {"wanted": wanted, "words": self._section.words}
                | {"out": str(self._work / f"unit-{unit:06d}.test.npy")}
                for unit, wanted in self._wanted(tested)
            ]
            done = sorted(self._run(write_ngrams, orders), key=lambda one: int(one["unit"]))
            parts += [np.load(one["out"]) for one in done]
            counts += [one["count"] for one in done]
            owners += [len(self._evaluations)] * len(done)
        found, of = joined(parts, np.repeat(np.array(owners, np.uint16), counts))
        for name, array in ((NGRAMS, found), (OWNERS, of)):
            with whole_file(self._work / name) as file:
                np.save(file, array)


def joined(parts: list[Uint64s], owners: NDArray[np.uint16]) -> tuple[Uint64s, NDArray[np.uint16]]:
    """N-grams of several owners, ascending and each once, with the first owner of each."""
    whole = np.concatenate([np.empty(0, np.uint64), *parts])
    found, first = np.unique(whole, return_index=True)
    return found, owners[first]


def write_ngrams(order: dict[str, Any]) -> dict[str, Any]:
    """The task of one unit with documents of the test split: write their n-grams."""
    wanted = set(order["wanted"])
    texts = (
        said_in(text) if order["records"] else text
        for at, text in enumerate(documents_in(order["texts"]))
        if at in wanted
    )
    found, _, _ = ngrams_in(texts, order["words"])
    with whole_file(Path(order["out"])) as file:
        np.save(file, found)
    return {
        "unit": order["unit"],
        "bytes": order["bytes"],
        "out": order["out"],
        "count": len(found),
    }


def find_overlaps(order: dict[str, Any]) -> dict[str, Any]:
    """The task of one unit: which of its documents in `wanted` overlap."""
    index = _index(order["ngrams"], order["owners"], order["sha256"])
    wanted = set(order["wanted"])
    overlaps = [
        (at, overlap[0], overlap[1], standing.part, standing.row, overlap[2])
        for at, (standing, text) in enumerate(standing_documents(order["texts"]))
        if at in wanted
        and (overlap := index.overlap(said_in(text) if order["records"] else text, order["words"]))
    ]
    return {"unit": order["unit"], "bytes": order["bytes"], "overlaps": overlaps}


class OverlapIndex:
    """The n-grams that are looked for.

    Args:
        ngrams: their hashes, ascending.
        owners: for each the index of what it is of.
    """

    def __init__(self, ngrams: Uint64s, owners: NDArray[np.uint16]):
        self._ngrams, self._owners = ngrams, owners
        self._table = np.zeros(1 << TABLE_BITS, np.bool_)
        self._table[_high(ngrams)] = True

    def overlap(self, text: str, words: int) -> tuple[int, float, str] | None:
        """Owner of the first n-gram of a text that is looked for, share of such, and the place."""
        content = text.lower().encode()
        found = words_of(content)
        if len(found.hashes) < words or not len(self._ngrams):
            return None
        grams = ngrams(found.hashes, words)
        likely = np.flatnonzero(self._table[_high(grams)])
        if not len(likely):
            return None
        places = np.searchsorted(self._ngrams, grams[likely])
        places[places == len(self._ngrams)] = 0
        hits = self._ngrams[places] == grams[likely]
        if not hits.any():
            return None
        first = int(likely[hits][0])
        start = max(0, int(found.starts[first]) - SHOWN_TEXT // 4)
        shown = content[start : start + SHOWN_TEXT].decode(errors="ignore")
        owner = int(self._owners[places[hits][0]])
        return owner, round(float(hits.sum()) / len(grams), 4), f"…{shown}" if start else shown


def _high(hashes: Uint64s) -> NDArray[np.int64]:
    return (hashes >> np.uint64(64 - TABLE_BITS)).astype(np.int64)


@lru_cache(maxsize=1)
def _index(ngrams: str, owners: str, sha256: str) -> OverlapIndex:
    """The index in two files, opened once a process; the hash keys the cache."""
    return OverlapIndex(np.load(ngrams, mmap_mode="r"), np.load(owners, mmap_mode="r"))


def _read(path: Path) -> list[Overlap] | None:
    """An earlier attempt's result; None if there is none, or it is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path) as arrays:
            return [Overlap(*one) for one in json.loads(arrays["overlaps"].tobytes())]
    except Exception:  # a damaged archive can raise almost any exception
        path.unlink()
        return None
