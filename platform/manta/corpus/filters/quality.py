"""Rules of published corpora on what a good document looks like.

Each rule has a limit in `manta.config.filters.QUALITY_LIMITS`, whose name is the reason with which
it drops a document. The rules and their numbers are those of

- Gopher: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training
  Gopher", appendix A.1.1 (quality) and table A1 (repetition);
- FineWeb: Penedo et al. 2024, "The FineWeb Datasets", section 3.5;
- C4: Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.2, with the numbers
  of its authors' code (TensorFlow Datasets, `c4_utils.py`).

Words are what white space separates. Shares of lines are of those that aren't blank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from manta.config.filters import QUALITY_LIMITS, QualitySection, RuleSet
from manta.corpus.filters.c4_lines import CleanedPage, cleaned
from manta.corpus.filters.filter_verdict import Drop, Keep, Verdict
from manta.corpus.filters.repetition import duplicate_lines, repetition

# The name of a limit, and what is measured of a text.
Measured: TypeAlias = Iterator[tuple[str, float]]

BULLETS = ("•", "‣", "▪", "●", "○", "-", "*")
ELLIPSES = ("...", "…")
# Ends of lines that FineWeb counts; those of other scripts too.
PUNCTUATION = tuple(".!?…\"'”’»。！？」』।؟۔։።")
SHORT_LINE = 30  # characters


class Quality:
    """Drops documents that break a rule of the sets that the config names."""

    name = "quality"

    def __init__(self, section: QualitySection):
        limits = {**QUALITY_LIMITS, **section.limits}
        self._limits = {name: limit for name, limit in limits.items() if limit is not None}
        self._rules = section.rules
        self._stop_words = frozenset(section.stop_words)

    def judge(self, text: str) -> Verdict:
        """Drop the document by the first rule that it breaks; C4's may remove lines of it."""
        found = dict[str, int]()
        measures: dict[RuleSet, Callable[[str], Measured]] = {
            "gopher_quality": self._gopher,
            "gopher_repetition": repetition,
            "fineweb": _fineweb,
        }
        for rule_set in self._rules:
            if rule_set == "c4":
                page = cleaned(text, int(self._limits.get("c4_min_line_words", 0)))
                if isinstance(page, Drop):
                    return page
                text, found = page.text, page.removed
                measured = _of_page(page)
            else:
                measured = measures[rule_set](text)
            for name, value in measured:
                if self._breaks(name, value):
                    return Drop(name, round(value, 4))
        return Keep(text, found)

    def _breaks(self, name: str, value: float) -> bool:
        limit = self._limits.get(name)
        if limit is None:
            return False
        if name.startswith("fineweb"):  # the paper removes documents at the limit, too
            return value <= limit if "_min_" in name else value >= limit
        return value < limit if "_min_" in name else value > limit

    def _gopher(self, text: str) -> Measured:
        words = text.split()
        count = max(len(words), 1)
        yield "gopher_min_words", len(words)
        yield "gopher_max_words", len(words)
        mean = sum(map(len, words)) / count
        yield "gopher_min_mean_word", mean
        yield "gopher_max_mean_word", mean
        yield "gopher_max_hashes", text.count("#") / count
        yield "gopher_max_ellipses", sum(map(text.count, ELLIPSES)) / count
        lines = _lines(text)
        bullets = sum(line.lstrip().startswith(BULLETS) for line in lines)
        yield "gopher_max_bullet_lines", bullets / max(len(lines), 1)
        ends = sum(line.rstrip().endswith(ELLIPSES) for line in lines)
        yield "gopher_max_ellipsis_lines", ends / max(len(lines), 1)
        yield "gopher_min_alphabetic_words", sum(map(_has_letter, words)) / count
        yield "gopher_min_stop_words", len(self._stop_words.intersection(text.lower().split()))


def _has_letter(word: str) -> bool:
    return word.isalpha() or any(map(str.isalpha, word))


def _lines(text: str) -> list[str]:
    """The lines of a text that aren't blank."""
    return [line for line in text.split("\n") if line and not line.isspace()]


def _fineweb(text: str) -> Measured:
    lines = _lines(text)
    count = max(len(lines), 1)
    punctuated = sum(line.rstrip().endswith(PUNCTUATION) for line in lines)
    yield "fineweb_min_punctuated_lines", punctuated / count
    short = sum(len(line.strip()) < SHORT_LINE for line in lines)
    yield "fineweb_max_short_lines", short / count
    yield "fineweb_max_duplicate_line_characters", duplicate_lines(lines)[1]


def _of_page(page: CleanedPage) -> Measured:
    yield "c4_min_sentences", page.sentences
