"""The filters that judge documents one by one, as a chain, and what it counts.

A chain is made from a *plan*: plain JSON values with all that the filters need, also the texts of
the files that the config names. Workers read it from the work folder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from manta.config.filters import (
    PrivacySection,
    QualitySection,
    RepairSection,
    WordListSection,
)
from manta.config.own_code import OwnCode
from manta.corpus.filters.filter_verdict import Drop, Filter
from manta.corpus.filters.own_filter import OwnFilter
from manta.corpus.filters.privacy import Privacy
from manta.corpus.filters.quality import Quality
from manta.corpus.filters.record_filter import RecordFilter
from manta.corpus.filters.repair import Repair
from manta.corpus.filters.word_lists import WordList, read_entries


@dataclass
class FilterCounts:
    """What one filter did.

    Attributes:
        documents_in: documents that it judged.
        dropped: documents that it dropped, by reason.
        changed: documents whose text it changed.
        found: number of things that it found or changed, by kind.
    """

    documents_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: int = 0
    found: Counter[str] = field(default_factory=Counter)

    @property
    def documents_out(self) -> int:
        """Documents that went on to the next filter."""
        return self.documents_in - self.dropped.total()

    def add(self, other: FilterCounts) -> None:
        """Add what the filter did elsewhere."""
        self.documents_in += other.documents_in
        self.dropped.update(other.dropped)
        self.changed += other.changed
        self.found.update(other.found)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, from which `from_json` makes an equal one; names in order."""
        return {
            "documents_in": self.documents_in,
            "documents_out": self.documents_out,
            "changed": self.changed,
            "dropped": dict(sorted(self.dropped.items())),
            "found": dict(sorted(self.found.items())),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> FilterCounts:
        """Counts that `as_json` gave."""
        return cls(
            content["documents_in"],
            Counter(content["dropped"]),
            content["changed"],
            Counter(content["found"]),
        )


@dataclass(frozen=True)
class Dropped:
    """A document that a filter of a chain dropped.

    Attributes:
        filter: name of the filter.
        reason: name of the rule.
        score: number that broke the rule, if there is one.
        text: the text as that filter got it.
    """

    filter: str
    reason: str
    score: float | None
    text: str


class Chain:
    """Filters in their order.

    Attributes:
        filters: the filters.
        counts: name of a filter → its counts.
        watch: called with a filter that changed a text, the text before and the text after.
    """

    def __init__(self, filters: list[Filter]):
        self.filters = filters
        self.watch: Callable[[Filter, str, str], None] | None = None
        self.counts = {one.name: FilterCounts() for one in filters}

    def judge(self, text: str) -> str | Dropped:
        """The text after all filters, or how it was dropped.

        Raises:
            OwnFilterError: if a user's own filter fails.
        """
        for one in self.filters:
            counts = self.counts[one.name]
            verdict = one.judge(text)
            counts.documents_in += 1
            if isinstance(verdict, Drop):
                counts.dropped[verdict.reason] += 1
                return Dropped(one.name, verdict.reason, verdict.score, text)
            if verdict.found:
                counts.found.update(verdict.found)
            if verdict.text is not text and verdict.text != text:
                counts.changed += 1
                if self.watch is not None:
                    self.watch(one, text, verdict.text)
                text = verdict.text
        return text


def chain_of(plan: list[dict[str, Any]], has_records: bool = False) -> Chain:
    """The chain of a plan: for each filter its `section`, and its `entries` or `code`."""
    filters = [_filter_of(**entry) for entry in plan]
    return Chain([RecordFilter(one) for one in filters] if has_records else filters)


@lru_cache(maxsize=1)
def stored_chain(path: str, sha256: str) -> Chain:
    """The chain of a plan in a file, made once a process; the hash keys the cache."""
    plan = json.loads(Path(path).read_bytes())
    return chain_of(plan["chain"], plan["has_records"])


def _filter_of(
    kind: str,
    section: dict[str, Any],
    entries: list[str] | None = None,
    code: dict[str, str] | None = None,
) -> Filter:
    if kind == "repair":
        return Repair(RepairSection.model_validate(section))
    if kind == "privacy":
        return Privacy(PrivacySection.model_validate(section))
    if kind == "quality":
        return Quality(QualitySection.model_validate(section))
    if entries is not None:
        listed = WordListSection.model_validate(section)
        return WordList(listed, read_entries(entries, listed.path))
    assert code is not None
    return OwnFilter(OwnCode(**code))
