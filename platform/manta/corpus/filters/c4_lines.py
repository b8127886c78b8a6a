"""C4's rules (Raffel et al. 2020, section 2.2), which remove lines and markers of a page.

C4 also drops pages with a word of a list; `filters.lists` does that.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from manta.corpus.filters.filter_verdict import Drop

TERMINAL = (".", "!", "?", '"')
POLICIES = (
    *("terms of use", "privacy policy", "cookie policy"),
    *("uses cookies", "use of cookies", "use cookies"),
)
LONGEST_WORD = 1000  # characters
_MARKERS = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")


@dataclass(frozen=True)
class CleanedPage:
    """What C4's rules leave of a page.

    Attributes:
        text: the lines that stay.
        sentences: number of sentences in them.
        removed: kinds of what was removed → number of lines, or of markers.
    """

    text: str
    sentences: int
    removed: dict[str, int]


def cleaned(text: str, line_words: int) -> CleanedPage | Drop:
    """Remove what C4 removes of a page, or drop all of it.

    Args:
        text: the page.
        line_words: least number of words in a line.
    """
    lowered = text.lower()
    if "lorem ipsum" in lowered:
        return Drop("c4_lorem_ipsum")
    if "{" in text:
        return Drop("c4_curly_bracket")
    kept, removed = list[str](), Counter[str]()
    for line in text.split("\n"):
        if not line.strip():
            continue
        line, markers = _MARKERS.subn("", line)
        if why := _unwanted(line.strip(), line_words):
            removed[why] += 1
            continue
        if markers:
            removed["citation_markers"] += markers
        kept.append(line)
    left = "\n".join(kept)
    return CleanedPage(left, len(_SENTENCE_END.findall(left)), dict(removed))


def _unwanted(line: str, line_words: int) -> str | None:
    """Why C4 removes a line; None if it doesn't."""
    if not line.endswith(TERMINAL) or line.endswith("..."):
        return "lines_without_punctuation"
    words = line.split()
    if len(words) < line_words:
        return "short_lines"
    if max(map(len, words)) > LONGEST_WORD:
        return "lines_with_long_words"
    lowered = line.lower()
    if "javascript" in lowered:
        return "lines_on_javascript"
    if any(policy in lowered for policy in POLICIES):
        return "lines_on_policies"
    return None
