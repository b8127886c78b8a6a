"""Words and n-grams of a text as hashes, without a Python object for each.

A *word* is a run of letters, digits and `_`; each ideograph and kana is a word by itself. Spaces,
punctuation and the common punctuation outside ASCII separate words. Hashes are functions of the
bytes alone, the same in every process and on every machine.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Uint64s: TypeAlias = NDArray[np.uint64]
Places: TypeAlias = NDArray[np.int64]

# A text is worked through in pieces of about this size, to stay within a processor's cache.
PIECE = 1 << 18
# An odd number, so that it has an inverse modulo 2**64 (Knuth's MMIX).
BASE = 6364136223846793005
INVERSE = pow(BASE, -1, 2**64)
ODD = np.uint64(0x9E3779B97F4A7C15)


class Words(NamedTuple):
    """The words of a text in UTF-8.

    Attributes:
        starts: byte at which each word starts.
        ends: byte after each word.
        hashes: hash of each word.
    """

    starts: Places
    ends: Places
    hashes: Uint64s


def words_of(content: bytes) -> Words:
    """The words of a text in UTF-8, as they are written: lower its case before for another view."""
    found, start = list[Words](), 0
    while start < len(content) or not found:
        stop = _end_of_piece(content, start)
        words = _piece(np.frombuffer(content, np.uint8, stop - start, start))
        found.append(Words(words.starts + start, words.ends + start, words.hashes))
        start = stop
    if len(found) == 1:
        return found[0]
    return Words(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def ngrams(hashes: Uint64s, length: int) -> Uint64s:
    """Hash of each run of `length` words; if there are fewer words, that of all of them.

    Returns:
        Shape (max(words − length + 1, 1),); empty without words.
    """
    if not len(hashes):
        return hashes
    length = min(length, len(hashes))
    count = len(hashes) - length + 1
    mixed = hashes[:count].copy()
    for place in range(1, length):
        mixed *= ODD
        mixed += hashes[place : place + count]
    return finished(mixed)


def finished(values: Uint64s) -> Uint64s:
    """Mix the bits of each value, in place: the finaliser of SplitMix64 (Steele et al. 2014)."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _end_of_piece(content: bytes, start: int) -> int:
    """Where a piece may end: after a byte that separates words, if there is one near."""
    if len(content) - start <= PIECE:
        return len(content)
    for separator in (b"\n", b" "):
        found = content.rfind(separator, start, start + PIECE)
        if found > start:
            return found + 1
    # No separator in so many bytes: cut between two characters.
    stop = start + PIECE
    while stop < len(content) and content[stop] & 0xC0 == 0x80:
        stop += 1
    return stop


@lru_cache(maxsize=1)
def _word_bytes() -> NDArray[np.bool_]:
    """Whether each byte is part of a word, outside the sequences that `_other` looks at."""
    table = np.zeros(256, np.bool_)
    table[[byte for byte in range(128) if chr(byte).isalnum() or byte == ord("_")]] = True
    table[128:] = True
    return table


def _powers(base: int, count: int) -> Uint64s:
    """The powers 0 to `count` − 1 of a number, modulo 2**64."""
    made = _all_powers(base, max(PIECE, 1 << max(count - 1, 1).bit_length()) + 8)
    return made[:count]


@lru_cache(maxsize=8)
def _all_powers(base: int, count: int) -> Uint64s:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _piece(text: NDArray[np.uint8]) -> Words:
    inside = _word_bytes()[text]
    alone = None
    if len(text) and text.max() >= 0x80:
        alone = _other(text, inside)
    bounds = np.zeros(len(text) + 1, np.int8)
    bounds[:-1] = inside
    steps = np.diff(bounds, prepend=np.int8(0))
    begins, ends = steps > 0, steps < 0
    if alone is not None and len(alone):
        # A character that is a word by itself ends the word before it, and starts the next.
        begins[alone] = True
        ends[alone] = np.concatenate([[False], inside])[alone]
        after = alone + 3
        next_inside = bounds[after] > 0
        ends[after] = True
        begins[after] |= next_inside
    starts, stops = np.flatnonzero(begins), np.flatnonzero(ends)
    sums = np.zeros(len(text) + 1, np.uint64)
    np.cumsum((text + np.uint64(1)) * _powers(BASE, len(text)), out=sums[1:])
    hashes = (sums[stops] - sums[starts]) * _powers(INVERSE, len(text) + 1)[starts]
    return Words(starts, stops, finished(hashes))


def _other(text: NDArray[np.uint8], inside: NDArray[np.bool_]) -> Places:
    """Mark punctuation outside ASCII as outside words; returns where characters are words."""
    first, second = text[:-1], text[1:]
    # U+00A0 to U+00BF, without the letters ª, µ, º.
    letters = np.isin(second, np.array([0xAA, 0xB5, 0xBA], np.uint8))
    latin = np.flatnonzero((first == 0xC2) & ~letters)
    for offset in range(2):
        inside[latin + offset] = False
    # U+2000 to U+206F (dashes, quotes, spaces), U+3000 to U+303F, U+FF00 to U+FF0F.
    wide = ((first == 0xE2) & ((second == 0x80) | (second == 0x81))) | (
        (first == 0xE3) & (second == 0x80)
    )
    if len(text) > 2:
        wide[:-1] |= (text[:-2] == 0xEF) & (text[1:-1] == 0xBC) & (text[2:] < 0x90)
    marks = np.flatnonzero(wide)
    for offset in range(3):
        inside[marks[marks + offset < len(text)] + offset] = False
    # U+3040 to U+9FFF: kana and ideographs.
    found: Places = np.flatnonzero((text >= 0xE3) & (text <= 0xE9) & inside)
    return found[found + 3 <= len(text)]
