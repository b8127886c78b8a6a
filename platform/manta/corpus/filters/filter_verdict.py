"""The seam of filters: a document's text in, a verdict out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias


@dataclass(frozen=True)
class Keep:
    """A document stays, perhaps with another text.

    Attributes:
        text: the text to go on with.
        found: kinds of things that were found or changed → their number.
    """

    text: str
    found: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Drop:
    """A document is left out.

    Attributes:
        reason: the rule that it breaks, in a few words; counted, so the same for all documents
            that break the same rule.
        score: the number that broke the rule, if there is one.
    """

    reason: str
    score: float | None = None


Verdict: TypeAlias = Keep | Drop


class Filter(Protocol):
    """Judges documents one by one.

    The verdict must be a function of the text alone: documents are judged in many processes, and
    again after an interruption.
    """

    name: str

    def judge(self, text: str) -> Verdict:
        """The verdict on one document."""
        ...
