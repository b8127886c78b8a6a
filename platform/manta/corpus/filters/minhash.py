"""MinHash sketches of sets of n-grams, and their bands for locality-sensitive hashing.

The share of hash functions whose least values over two sets agree estimates the sets' Jaccard
similarity (Broder 1997). A *band* is some of these values hashed together: two documents are
candidates if one of their bands is equal, which happens with probability 1 − (1 − s^rows)^bands at
similarity s (Leskovec et al., "Mining of Massive Datasets", section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from manta.corpus.filters.words import ODD, Uint64s, finished, ngrams, words_of

# Hash functions to make bands of, at most.
FUNCTIONS = 128
# Probability with which two documents at the threshold are to be candidates, at least.
FOUND = 0.99
# Documents are sketched in batches of about so many n-grams, to stay within a processor's cache.
BATCH = 1 << 16

Sketches = NDArray[np.uint64]  # shape (bands, documents)


class Banding(NamedTuple):
    """How hash functions are cut into bands.

    Attributes:
        bands: number of bands.
        rows: hash functions of a band.
    """

    bands: int
    rows: int


def banding(threshold: float) -> Banding:
    """The bands with the most rows, so the fewest false candidates, that find pairs as `FOUND`."""
    for rows in range(FUNCTIONS, 1, -1):
        bands = FUNCTIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= FOUND:
            return Banding(bands, rows)
    return Banding(FUNCTIONS, 1)


def shingles(text: str, words: int) -> Uint64s:
    """Hashes of the n-grams of a text's words in lower case; they may repeat."""
    return ngrams(words_of(text.lower().encode()).hashes, words)


def sketches(texts: Sequence[str], words: int, bands: Banding) -> Sketches:
    """The bands of each text, shape (bands, documents).

    A text without words has bands of its own in no sense: all such texts have the same.
    """
    found = [_of_batch(batch, bands) for batch in _batches(texts, words)]
    return np.concatenate([np.empty((bands.bands, 0), np.uint64), *found], axis=1)


def _batches(texts: Sequence[str], words: int) -> Iterator[list[Uint64s]]:
    batch, held = list[Uint64s](), 0
    for text in texts:
        batch.append(shingles(text, words))
        held += len(batch[-1])
        if held >= BATCH:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _of_batch(batch: list[Uint64s], bands: Banding) -> Sketches:
    empty = np.zeros(1, np.uint64)
    sets = [one if len(one) else empty for one in batch]
    begins = np.cumsum([0, *map(len, sets[:-1])])
    values = (np.concatenate(sets) >> np.uint64(32)).astype(np.uint32)
    masks, factors = _functions(bands.bands * bands.rows)
    mixed = np.empty_like(values)
    least = np.empty(len(sets), np.uint32)
    made = np.zeros((bands.bands, len(sets)), np.uint64)
    for function in range(bands.bands * bands.rows):
        np.bitwise_xor(values, masks[function], out=mixed)
        np.multiply(mixed, factors[function], out=mixed)
        np.minimum.reduceat(mixed, begins, out=least)
        band = made[function // bands.rows]
        band *= ODD
        band += least
    for band in made:
        finished(band)
    return made


@lru_cache(maxsize=4)
def _functions(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Masks and odd factors: x → (x xor mask) · factor mod 2**32 is a permutation."""
    bits = finished(np.arange(1, 2 * count + 1, dtype=np.uint64) * ODD)
    high = (bits >> np.uint64(32)).astype(np.uint32)
    return high[:count], high[count:] | np.uint32(1)
