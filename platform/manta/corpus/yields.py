"""What is left of each source, and why the rest of it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from manta.corpus.scan import Located, Scanned
from manta.corpus.work_units import UnitPlan

# A source of which no more than this share is left is named: hardly anyone means that.
LITTLE = 0.5


@dataclass(frozen=True)
class Yield:
    """One source after the first pass.

    Attributes:
        source: the source's name.
        kept: documents that go into the corpus.
        duplicates: documents that an earlier one equals, of whichever source.
        empty: texts without content.
        problems: rows and files that can't be used.
    """

    source: str
    kept: int
    duplicates: int
    empty: int
    problems: Sequence[Located]

    @property
    def found(self) -> int:
        """All that there was, usable or not."""
        return self.kept + self.duplicates + self.empty + len(self.problems)

    @property
    def is_little(self) -> bool:
        """Whether so little is left that people should hear of it."""
        return self.kept <= LITTLE * self.found

    def __str__(self) -> str:
        """What is left, and what became of the rest."""
        reasons = [
            f"{count:,} {what}"
            for count, what in ((self.duplicates, "duplicates"), (self.empty, "empty"))
            if count
        ]
        if self.problems:
            (reason, _), *_ = Counter(problem.reason for problem in self.problems).most_common(1)
            example = next(problem for problem in self.problems if problem.reason == reason)
            reasons.append(f"{len(self.problems):,} unusable, most often as in {example}")
        left = f"{self.kept:,} of {self.found:,} documents" if self.kept else "no document"
        return f"source '{self.source}' is left with {left}: {'; '.join(reasons) or 'no input'}"


def yields(scanned: Scanned, plan: UnitPlan, sources: Sequence[str]) -> list[Yield]:
    """What is left of each source, in the order of `sources`."""
    kept, duplicates, empty = np.zeros((3, len(sources)), dtype=np.int64)
    for unit in plan.units:
        marks = scanned.of_unit(unit.index)[1]
        kept[unit.source] += int(marks.sum())
        duplicates[unit.source] += int((~marks).sum())
        empty[unit.source] += scanned.empty_in[unit.index]
    problems: dict[str, list[Located]] = {name: [] for name in sources}
    for problem in scanned.problems:
        problems[problem.source].append(problem)
    return [
        Yield(name, int(kept[i]), int(duplicates[i]), int(empty[i]), problems[name])
        for i, name in enumerate(sources)
    ]
