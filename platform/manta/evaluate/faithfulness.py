"""Which claims of an answer its context supports, by words alone: a baseline.

A claim is a sentence with some content. It counts as supported if a large enough share of its
content words, and each of its numbers, stand in the context. So a paraphrase counts as unsupported
and a negation as supported: the rate compares models on one set, and is no verdict on one answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

# Words that say nothing of the matter.
_STOP = """
    a about after all also an and any are as at be because been before being but by can could
    did do does each for from had has have he her here him his how i if in into is it its just
    may me might more most must my no nor not of on one only or other our out over own same
    shall she should so some such than that the their them then there these they this those to
    too under up us very was we were what when where which while who whom why will with would
    you your
"""
STOP_WORDS = frozenset(_STOP.split())
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+(?:[.,]\d+)*", re.UNICODE)


@dataclass(frozen=True)
class Claim:
    """A sentence of an answer.

    Attributes:
        text: the sentence.
        supported: whether the context supports the sentence.
    """

    text: str
    supported: bool


def claims_of(
    answer: str,
    context: str,
    support: float,
    entailed: Callable[[str, str], float] | None = None,
) -> list[Claim]:
    """The claims of an answer, each with whether it is supported.

    Args:
        answer: the answer.
        context: text that the answer may rely on.
        support: share of a claim's content words that must stand in the context, or the least
            probability of `entailed`.
        entailed: probability that a context entails a claim; None to go by words.
    """
    known = set(_words(context))
    found = list[Claim]()
    for sentence in SENTENCE.split(answer):
        words = _words(sentence)
        if not words:
            continue
        if entailed is not None:
            found.append(Claim(sentence.strip(), entailed(context, sentence.strip()) >= support))
            continue
        there = [word in known for word in words]
        numbers = all(word in known for word in words if word[0].isdigit())
        found.append(Claim(sentence.strip(), numbers and sum(there) >= support * len(there)))
    return found


def _words(text: str) -> list[str]:
    """Content words and numbers of a text, in lower case, without a plural's s."""
    found = (word.lower().replace(",", "") for word in WORD.findall(text))
    return [_stem(word) for word in found if word not in STOP_WORDS]


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
