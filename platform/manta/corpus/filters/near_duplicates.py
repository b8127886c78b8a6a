"""Near-duplicates: documents of which another one has nearly all n-grams, and vice versa.

Candidates are documents with an equal band of their MinHash sketches (`minhash.py`). Each pair of
candidates is compared exactly, by the Jaccard similarity of the sets of their n-grams. Documents
that are connected by pairs at or above the threshold are a group, of which one document stays: one
of the test split before one of the validation split before one of the training split, and among
these the first in canonical order. So no document of the training split is nearly the same as one
that a model is measured on, and the result depends on the documents and their order alone.

The driver holds one band of all documents at a time, 8 bytes each with as much again to sort them,
and the pairs of candidates. Sketches and n-grams are in files of the work folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from manta.config.filters import NearDuplicatesSection
from manta.corpus.documents import SPLITS
from manta.corpus.filters.candidates import (
    candidates_file,
    compare_pairs,
    write_candidates,
)
from manta.corpus.filters.compared_units import ComparedUnits
from manta.corpus.filters.minhash import banding
from manta.corpus.filters.words import Places
from manta.corpus.leftovers import checksum, sketches_file
from manta.storage.atomic import whole_file

RESULT = "near_duplicates.npz"
# In a bucket, a document is compared with the first one and with so many before it.
BEFORE = 7
# Pairs of one order for a worker.
CHUNK = 20_000


class NearDuplicates(NamedTuple):
    """The documents that are nearly the same as one that stays.

    Attributes:
        documents: index of each in canonical order, ascending.
        kept: for each the document that stays in its place.
        similarity: their Jaccard similarity; below the threshold where others connect them.
        files: unit → path and checksum of its candidates.
    """

    documents: Places
    kept: Places
    similarity: NDArray[np.float64]
    files: dict[str, tuple[str, str]]


class Search:
    """The search for near-duplicates in a corpus.

    Args:
        section: the config's section.
        units: units that the documents are in.
    """

    def __init__(
        self,
        section: NearDuplicatesSection,
        units: ComparedUnits,
    ):
        self._section, self._work, self._begins = section, units.work, units.begins
        self._order, self._run = units.order, units.run

    def found(self, live: NDArray[np.bool_], splits: NDArray[np.int8]) -> NearDuplicates:
        """The near-duplicates among the documents that are `live`; of `splits`, by index.

        An earlier attempt's result is taken if it is undamaged.
        """
        path = self._work / RESULT
        if (before := _read(path)) is not None:
            return before
        pairs = candidate_pairs(self._bands(live), np.flatnonzero(live))
        files = self._write_candidates(np.unique(pairs))
        similar = self._similarities(pairs, files)
        same = similar >= self._section.threshold
        documents, kept = left_out(pairs[same], splits)
        whole = self._similarities(np.stack([documents, kept], axis=1), files)
        result = NearDuplicates(documents, kept, whole, files)
        with whole_file(path) as file:
            notes = np.frombuffer(json.dumps(files).encode(), np.uint8)
            np.savez(file, documents=documents, kept=kept, similarity=whole, files=notes)
        return result

    def _bands(self, live: NDArray[np.bool_]) -> Iterator[NDArray[np.uint64]]:
        """One band after the other of all documents that are `live`."""
        files = [sketches_file(self._work, unit) for unit in range(len(self._begins) - 1)]
        for band in range(banding(self._section.threshold).bands):
            keys = np.empty(len(live), np.uint64)
            for unit, path in enumerate(files):
                # Opened anew each time: a process may have fewer open files than there are units.
                mapped = np.load(path, mmap_mode="r")
                keys[self._begins[unit] : self._begins[unit + 1]] = mapped[band]
            yield keys[live]

    def _write_candidates(self, documents: Places) -> dict[str, tuple[str, str]]:
        bounds = np.searchsorted(documents, self._begins)
        orders = []
        for unit in np.flatnonzero(np.diff(bounds)).tolist():
            here = documents[bounds[unit] : bounds[unit + 1]]
            more = {
                "candidates": str(candidates_file(self._work, unit)),
                "wanted": (here - self._begins[unit]).tolist(),
                "words": self._section.words,
            }
            orders.append(self._order(unit) | more)
        return {
            str(done["unit"]): (str(candidates_file(self._work, done["unit"])), done["sha256"])
            for done in self._run(write_candidates, orders)
        }

    def _similarities(
        self, pairs: Places, files: dict[str, tuple[str, str]]
    ) -> NDArray[np.float64]:
        units = np.searchsorted(self._begins, pairs, side="right") - 1
        inside = pairs - self._begins[units]
        whole = np.stack([units[:, 0], inside[:, 0], units[:, 1], inside[:, 1]], axis=1)
        orders = []
        for number, start in enumerate(range(0, len(pairs), CHUNK)):
            chunk = whole[start : start + CHUNK]
            needed = np.unique(chunk[:, [0, 2]]).tolist()
            more = {
                "pairs": chunk.tolist(),
                "files": {str(unit): files[str(unit)] for unit in needed},
                "number": number,
            }
            orders.append(self._order(int(chunk[0, 0])) | more)
        found = np.zeros(len(pairs))
        for done in self._run(compare_pairs, orders):
            start = done["number"] * CHUNK
            found[start : start + len(done["similarities"])] = done["similarities"]
        return found


def candidate_pairs(bands: Iterator[NDArray[np.uint64]], documents: Places) -> Places:
    """Pairs of documents to compare, shape (pairs, 2): each once, the earlier document first.

    Args:
        bands: one band of all documents after the other.
        documents: index of each document, ascending.
    """
    found = np.empty(0, np.uint64)  # both places of a pair, in 32 bits each
    for keys in bands:
        found = np.union1d(found, _pairs_of(keys))
    places = np.stack([found >> np.uint64(32), found & np.uint64(0xFFFFFFFF)], axis=1)
    return documents[places.astype(np.int64)]


def _pairs_of(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    order = np.argsort(keys, kind="stable").astype(np.uint64)
    ordered = keys[order.astype(np.int64)]
    pairs = [np.empty(0, np.uint64)]
    for distance in range(1, BEFORE + 1):
        equal = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        if not len(equal):
            break
        pairs.append(order[equal] << np.uint64(32) | order[equal + distance])
    # The first of each bucket, with those that are too far from it.
    first = np.searchsorted(ordered, ordered) if len(pairs) > BEFORE else np.arange(len(ordered))
    far = np.flatnonzero(np.arange(len(ordered)) - first > BEFORE)
    pairs.append(order[first[far]] << np.uint64(32) | order[far])
    return np.concatenate(pairs)


def left_out(pairs: Places, splits: NDArray[np.int8]) -> tuple[Places, Places]:
    """Documents of groups that don't stay, ascending, and for each the one that does.

    Args:
        pairs: pairs of similar documents, shape (pairs, 2).
        splits: index in `SPLITS` of each document of the corpus.
    """
    members, places = np.unique(pairs, return_inverse=True)
    groups = connected(places.reshape(-1, 2), len(members))
    # Splits are train, validation, test; the last one stays before the others.
    order = np.lexsort((members, len(SPLITS) - splits[members], groups))
    begins = np.ones(len(order), np.bool_)
    begins[1:] = groups[order[1:]] != groups[order[:-1]]
    first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    lost, kept = members[order[~begins]], members[order[first[~begins]]]
    ascending = np.argsort(lost)
    return lost[ascending], kept[ascending]


def connected(pairs: Places, count: int) -> Places:
    """The connected components of a graph: for each of `count` nodes the first one of its own.

    Args:
        pairs: edges, shape (edges, 2).
        count: number of nodes.
    """
    labels = np.arange(count)
    while len(pairs):
        least = labels[pairs].min(axis=1)
        before = labels.copy()
        for side in range(2):
            # Also at the node that a label names, so that far parts are joined in few rounds.
            np.minimum.at(labels, before[pairs[:, side]], least)
            np.minimum.at(labels, pairs[:, side], least)
        labels = labels[labels]
        if (labels == before).all():
            break
    return labels


def _read(path: Path) -> NearDuplicates | None:
    """An earlier attempt's result; None if there is none, or a file is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path) as arrays:
            files = json.loads(arrays["files"].tobytes())
            result = NearDuplicates(
                arrays["documents"],
                arrays["kept"],
                arrays["similarity"],
                {unit: (name, sha256) for unit, (name, sha256) in files.items()},
            )
        for name, sha256 in result.files.values():
            if checksum(Path(name)) != sha256:
                raise ValueError(name)
    except Exception:  # a damaged archive can raise almost any exception
        path.unlink()
        return None
    return result
