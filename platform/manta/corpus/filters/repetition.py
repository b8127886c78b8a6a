"""How much of a text repeats itself: Gopher's measures (Rae et al. 2021, table A1).

Shares of characters are measured in bytes of UTF-8. An n-gram counts from its first to its last
word; of duplicate n-grams, those that occurred before count, and no byte counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from manta.corpus.filters.words import Words, ngrams, words_of

TOP = (2, 3, 4)
DUPLICATES = (5, 6, 7, 8, 9, 10)


def repetition(text: str) -> Iterator[tuple[str, float]]:
    """Each limit's name, and the share of lines, paragraphs or characters that it bounds."""
    lines = [line for line in text.split("\n") if line and not line.isspace()]
    count, characters = duplicate_lines(lines)
    yield "gopher_max_duplicate_lines", count
    yield "gopher_max_duplicate_line_characters", characters
    paragraphs = [part for part in text.split("\n\n") if part and not part.isspace()]
    count, characters = duplicate_lines(paragraphs)
    yield "gopher_max_duplicate_paragraphs", count
    yield "gopher_max_duplicate_paragraph_characters", characters
    content = text.encode()
    words = words_of(content)
    for length in TOP:
        share = top_share(words, length, len(content))
        yield f"gopher_max_top_{length}_grams", share
        if not share:
            return  # without a repeated n-gram there are no longer ones either
    for length in DUPLICATES:
        share = duplicate_share(words, length, len(content))
        yield f"gopher_max_duplicate_{length}_grams", share
        if not share:
            return


def duplicate_lines(lines: Sequence[str]) -> tuple[float, float]:
    """Shares of lines that occurred before, and of the characters in these."""
    if len(lines) < 2 or len(unique := set(lines)) == len(lines):
        return 0.0, 0.0
    total = sum(map(len, lines))
    return 1 - len(unique) / len(lines), 1 - sum(map(len, unique)) / max(total, 1)


def top_share(words: Words, length: int, total: int) -> float:
    """Share of `total` bytes in the n-gram that occurs most often; 0 if none occurs twice."""
    if len(words.hashes) < length:
        return 0.0
    found = ngrams(words.hashes, length)
    ordered = np.sort(found)
    begins = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    bounds = np.concatenate([[0], begins, [len(ordered)]])
    counts = bounds[1:] - bounds[:-1]
    most = counts.max()
    if most < 2:
        return 0.0
    most_often = ordered[bounds[:-1][counts == most]]
    at = np.searchsorted(most_often, found)
    at[at == len(most_often)] = 0
    places = np.flatnonzero(most_often[at] == found)
    longest = (words.ends[places + length - 1] - words.starts[places]).max()
    return min(1.0, int(longest) * int(most) / total)


def duplicate_share(words: Words, length: int, total: int) -> float:
    """Share of `total` bytes in n-grams that occurred before."""
    if len(words.hashes) < length:
        return 0.0
    found = ngrams(words.hashes, length)
    ordered = np.sort(found)  # several times as fast as argsort, and most texts have none
    if not (ordered[1:] == ordered[:-1]).any():
        return 0.0
    order = np.argsort(found, kind="stable")
    places = np.sort(order[1:][found[order[1:]] == found[order[:-1]]])
    starts, ends = words.starts[places], words.ends[places + length - 1]
    # Runs begin in order, so each adds what lies beyond the end of the one before.
    before = np.concatenate([[0], ends[:-1]])
    return float((ends - np.maximum(starts, before)).sum()) / total
