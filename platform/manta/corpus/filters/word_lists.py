"""Lists of words, phrases and patterns: documents that match are dropped, or counted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from manta.config.errors import CorpusError
from manta.config.filters import WordListSection
from manta.corpus.filters.filter_verdict import Drop, Keep, Verdict

PATTERN = "re:"
_WORD = re.compile(r"\w+")
# An entry of these characters alone stands between other words; scripts without spaces don't.
_PLAIN = re.compile(r"[\w ]+")
_UNSPACED = re.compile(r"[぀-ヿ㐀-鿿฀-๿]")


@dataclass(frozen=True)
class Entries:
    """The entries of a list.

    Attributes:
        words: single words, in lower case.
        phrases: number of words → phrases of so many, in lower case.
        pattern: regular expression of all other entries; None without any.
    """

    words: frozenset[str]
    phrases: dict[int, frozenset[tuple[str, ...]]]
    pattern: re.Pattern[str] | None


def read_entries(lines: Iterable[str], shown: str) -> Entries:
    """Read the lines of a list.

    Args:
        lines: the file's lines.
        shown: name of the file, for messages.

    Raises:
        CorpusError: naming the line of a pattern that is no regular expression; or if there is no
            entry.
    """
    phrases: dict[int, set[tuple[str, ...]]] = {}
    patterns = []
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if entry.startswith(PATTERN):
            patterns.append(_checked(entry.removeprefix(PATTERN), f"{shown}:{number}"))
        elif _PLAIN.fullmatch(entry) and not _UNSPACED.search(entry):
            words = tuple(entry.lower().split())
            phrases.setdefault(len(words), set()).add(words)
        else:
            patterns.append(_bounded(entry))
    if not phrases and not patterns:
        raise CorpusError(f"{shown}: the list has no entry: write a word or a phrase a line")
    single = frozenset(word for (word,) in phrases.pop(1, set()))
    # Longest first, so that an entry that begins another one doesn't hide it.
    joined = "|".join(f"(?:{one})" for one in sorted(patterns, key=len, reverse=True))
    pattern = re.compile(joined, re.IGNORECASE) if joined else None
    return Entries(single, {n: frozenset(some) for n, some in sorted(phrases.items())}, pattern)


def _checked(pattern: str, place: str) -> str:
    try:
        matches_nothing = re.compile(pattern, re.IGNORECASE).search("") is not None
    except re.error as error:
        raise CorpusError(
            f"{place}: '{PATTERN}{pattern}' is no regular expression: {error}"
        ) from None
    if matches_nothing:
        raise CorpusError(f"{place}: '{PATTERN}{pattern}' matches the empty text, so everywhere")
    if re.compile(pattern).groups and re.search(r"\\\d|\(\?P=|\(\?P<", pattern):
        raise CorpusError(
            f"{place}: '{PATTERN}{pattern}' refers to a group: patterns of a list are joined, so "
            "write it without references and named groups"
        )
    return pattern


def _bounded(entry: str) -> str:
    """A pattern for an entry with other characters than letters, digits and spaces."""
    before = r"(?<!\w)" if entry[0].isalnum() and not _UNSPACED.match(entry[0]) else ""
    after = r"(?!\w)" if entry[-1].isalnum() and not _UNSPACED.match(entry[-1]) else ""
    return before + re.escape(entry) + after


class WordList:
    """Counts a document's matches with a list, whatever their case."""

    def __init__(self, section: WordListSection, entries: Entries):
        self.name = f"lists.{section.name}"
        self._entries = entries
        self._drops = section.action == "drop"
        self._at_most = section.at_most

    def judge(self, text: str) -> Verdict:
        """Drop a document with more matches than it may have; found: the matches."""
        count = self._count(text)
        if self._drops and count > self._at_most:
            return Drop("matches", count)
        return Keep(text, {"matches": count} if count else {})

    def _count(self, text: str) -> int:
        entries, count = self._entries, 0
        if entries.words or entries.phrases:
            words = _WORD.findall(text.lower())
            if entries.words and not entries.words.isdisjoint(words):
                count += sum(word in entries.words for word in words)
            for length, phrases in entries.phrases.items():
                runs = zip(*(words[start:] for start in range(length)), strict=False)
                count += sum(run in phrases for run in runs)
        if entries.pattern is not None:
            count += sum(1 for _ in entries.pattern.finditer(text))
        return count
