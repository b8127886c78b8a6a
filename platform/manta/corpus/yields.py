"""How many documents of each source are kept, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from manta.corpus.documents import DUPLICATE, KEPT
from manta.corpus.scan import Located, Scanned
from manta.corpus.work_units import UnitPlan

# People are told of a source of which at most this share is kept, as that is probably a mistake.
LITTLE = 0.5


@dataclass(frozen=True)
class Yield:
    """One source after the first pass.

    Attributes:
        source: the source's name.
        kept: number of documents that go into the corpus.
        duplicates: number of documents that equal an earlier one of any source.
        filtered: number of documents that filters dropped.
        empty: number of texts without content.
        problems: rows and files that can't be used.
    """

    source: str
    kept: int
    duplicates: int
    filtered: int
    empty: int
    problems: Sequence[Located]

    @property
    def found(self) -> int:
        """Number of documents and problems that were found."""
        return self.kept + self.duplicates + self.filtered + self.empty + len(self.problems)

    @property
    def is_little(self) -> bool:
        """Whether so few documents are kept that people should be told."""
        return self.kept <= LITTLE * self.found

    def __str__(self) -> str:
        """The number of documents that are kept, and why others are not, for people."""
        reasons = [
            f"{count:,} {what}"
            for count, what in (
                (self.duplicates, "duplicates"),
                (self.filtered, "dropped by filters"),
                (self.empty, "empty"),
            )
            if count
        ]
        if self.problems:
            (reason, _), *_ = Counter(problem.reason for problem in self.problems).most_common(1)
            example = next(problem for problem in self.problems if problem.reason == reason)
            reasons.append(f"{len(self.problems):,} unusable, most often as in {example}")
        kept = f"{self.kept:,} of {self.found:,} documents are" if self.kept else "no document is"
        return f"source '{self.source}': {kept} kept: {'; '.join(reasons) or 'no input'}"


def yields(scanned: Scanned, plan: UnitPlan, sources: Sequence[str]) -> list[Yield]:
    """The `Yield` of each source, in the order of `sources`."""
    kept, duplicates, filtered, empty = np.zeros((4, len(sources)), dtype=np.int64)
    for unit in plan.units:
        fates = scanned.fates_of(unit.index)
        kept[unit.source] += int((fates == KEPT).sum())
        duplicates[unit.source] += int((fates == DUPLICATE).sum())
        filtered[unit.source] += int((fates > DUPLICATE).sum())
        by_chain = scanned.filtered_in[unit.index].values()
        filtered[unit.source] += sum(counts.dropped.total() for counts in by_chain)
        empty[unit.source] += scanned.empty_in[unit.index]
    problems: dict[str, list[Located]] = {name: [] for name in sources}
    for problem in scanned.problems:
        problems[problem.source].append(problem)
    return [
        Yield(
            name, int(kept[i]), int(duplicates[i]), int(filtered[i]), int(empty[i]), problems[name]
        )
        for i, name in enumerate(sources)
    ]
