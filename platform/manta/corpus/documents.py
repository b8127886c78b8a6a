"""A document's hash and what follows from it, and problems with documents.

The BLAKE2b-128 hash of a document's UTF-8 bytes is its identity. Everything that must not depend on
the document's place, or on the rest of the corpus, follows from the hash: whether it is a
duplicate, its split, its rank in the tokenizer's sample, its id.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from manta.config.corpus import SplitSection
from manta.corpus.manifest import Split

HASH_BYTES = 16
SPLITS: tuple[Split, ...] = get_args(Split)
# What becomes of a document after the first pass: it is kept, or left out for a reason.
KEPT, DUPLICATE, NEAR_DUPLICATE, CONTAMINATED, CAPPED = range(5)
Hashes = NDArray[np.uint8]  # shape (documents, HASH_BYTES)


@dataclass(frozen=True)
class Problem:
    """Why a file, or one row (or line) of a part of it, can't be used.

    Attributes:
        row: number of the row within the part, from 0; None if the problem is the file's.
        reason: text for people, without file and row.
        content: the start of the row, if it can be shown.
    """

    row: int | None
    reason: str
    content: str = ""


def content_hash(text: bytes) -> bytes:
    """The identity of a document: `HASH_BYTES` bytes."""
    return hashlib.blake2b(text, digest_size=HASH_BYTES).digest()


def split_bounds(weights: SplitSection) -> list[int]:
    """Upper ends of train, validation and test on the line [0, 2**64]; the last is 2**64."""
    shares = [Fraction(getattr(weights, split)) for split in SPLITS]
    return [int(end * 2**64 / sum(shares)) for end in accumulate(shares)]


def split_of(hashes: Hashes, bounds: list[int]) -> NDArray[np.int8]:
    """Index in `SPLITS` of each document, by the last eight bytes of its hash."""
    place = _words(hashes)[:, 1]
    # searchsorted can't do it: a split of weight 0 has an empty interval, and 2**64 is no uint64.
    split = np.zeros(len(place), dtype=np.int8)
    for end in bounds[:-1]:
        split += place >= end if end < 2**64 else np.zeros(len(place), dtype=bool)
    return split


def sample_priority(hashes: Hashes) -> NDArray[np.uint64]:
    """Rank in the tokenizer's sample, lowest first: the hash's first eight bytes.

    `split_of` uses other bytes, so that the two choices are independent.
    """
    return _words(hashes)[:, 0]


def first_occurrences(hashes: Hashes) -> NDArray[np.bool_]:
    """Whether each document differs from all earlier ones, shape (documents,).

    Takes about 40 bytes of memory a document, of which the hash itself is 16: a hundred million
    documents take 4 GB on the driver.
    """
    words = _words(hashes)
    # lexsort is stable, so that the first of several equal hashes stays first.
    order = np.lexsort((words[:, 1], words[:, 0]))
    ordered = words[order]
    repeated = np.zeros(len(words), dtype=bool)
    repeated[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return ~repeated


def _words(hashes: Hashes) -> NDArray[np.uint64]:
    words: NDArray[np.uint64] = np.ascontiguousarray(hashes).view(">u8")
    return words.astype(np.uint64, copy=False)
