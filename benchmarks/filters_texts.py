"""Texts for the benchmark of filters: prose of made sentences, and copies of known similarity."""

from __future__ import annotations

import random
import re
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

MODULES = 150
NGRAM = 5


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[list[str], list[float]]:
    """Words of the standard library's comments and strings, and Zipf's weights for them."""
    root = Path(sysconfig.get_paths()["stdlib"])
    counts: dict[str, int] = {}
    for path in sorted(root.glob("*.py"))[:MODULES]:
        for word in re.findall(r"\b[a-z]{2,12}\b", path.read_text(errors="ignore")):
            counts[word] = counts.get(word, 0) + 1
    words = sorted(counts, key=lambda word: (-counts[word], word))
    common = ["the", "of", "and", "to", "that", "in", "is", "it", "for", "with", "be", "have"]
    words = [*common, *(word for word in words if word not in common)]
    cumulated = np.cumsum(1 / np.arange(2, len(words) + 2)).tolist()
    return words, cumulated


def prose(seed: int, words: int = 600) -> str:
    """A document of paragraphs and sentences, some 3.6 KB with 600 words."""
    known, cumulated = _vocabulary()
    draw = random.Random(seed)
    drawn = iter(draw.choices(known, cum_weights=cumulated, k=words))
    sentences = list[str]()
    left = words
    while left > 0:
        length = min(left, draw.randint(6, 22))
        left -= length
        sentence = [next(drawn) for _ in range(length)]
        if length > 12:
            sentence[length // 2] += ","
        end = "\n\n" if draw.random() < 0.15 else " "
        sentences.append(" ".join(sentence).capitalize() + "." + end)
    return "".join(sentences).strip()


def edited(text: str, strength: float, seed: int) -> str:
    """The text after edits: words replaced, left out and put in, case and punctuation changed.

    Args:
        text: the text.
        strength: share of the words that are edited.
        seed: seed of the edits.
    """
    draw = random.Random(seed)
    known, _ = _vocabulary()
    made = list[str]()
    for word in text.split(" "):
        if draw.random() >= strength:
            made.append(word)
            continue
        kind = draw.randrange(3)
        if kind == 0:
            made.append(draw.choice(known))
        elif kind == 1:
            made += [draw.choice(known), word]
    whole = " ".join(made)
    return whole.replace(",", ";").upper() if draw.random() < 0.2 else whole


def true_jaccard(one: str, other: str) -> float:
    """Jaccard similarity of the sets of two texts' n-grams, by Python's own sets of tuples."""
    sets = []
    for text in (one, other):
        words = re.findall(r"\w+", text.lower())
        sets.append(set(zip(*(words[start:] for start in range(NGRAM)), strict=False)))
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def labelled_pairs(count: int) -> Iterator[tuple[str, str, float]]:
    """Pairs of a text and an edited copy with their true similarity, from some 0.6 to 1."""
    for seed in range(count):
        text = prose(10_000_000 + seed, 200 + seed % 600)
        copy = edited(text, 0.055 * (seed % 50) / 50, seed)
        yield text, copy, true_jaccard(text, copy)
