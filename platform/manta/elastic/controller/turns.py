"""Runs that each hold a part of what they need take turns, where all of them would wait for ever.

A run can't begin below `scaling.min`. Where two runs of two workers each share two devices and each
holds one, neither gets further. So a run that has waited a while gives its slots back for the run
that is first in line, if that can begin by them, and asks again once it has begun. Who is first
follows from the runs' names alone: all come to the same without talking to each other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.util.placement_group import placement_group_table

# Seconds below the minimum before a run looks at others, and between two looks.
PATIENCE_SECONDS, LOOK_SECONDS = 10.0, 1.0
# Most seconds that a run stays back for another.
LONGEST_SECONDS = 60.0


@dataclass
class Waiting:
    """A run's slots, by the cluster's table of placement groups.

    Attributes:
        minimum: fewest workers that the run begins with.
        bundle: Ray resources of one worker.
        held: slots that are placed.
        asked: slots that are requested, those that are placed among them.
    """

    minimum: int
    bundle: dict[str, float] = field(default_factory=dict)
    held: int = 0
    asked: int = 0

    @property
    def missing(self) -> int:
        """Slots that the run needs before it can begin; 0 if it trains or could."""
        return max(0, self.minimum - self.held) if self.asked > self.held else 0


def name_of(owner: str, minimum: int, number: int) -> str:
    """The name of a slot's placement group, by which others know what its run waits for."""
    return f"{owner}/{minimum}/{number}"


def runs_in(table: Iterable[Mapping[str, Any]]) -> dict[str, Waiting]:
    """The runs that have slots, by their names; other placement groups are passed over.

    Args:
        table: the values of `placement_group_table()`.
    """
    found: dict[str, Waiting] = {}
    for group in table:
        owner, *numbers = group["name"].rsplit("/", 2)
        if group["state"] == "REMOVED" or len(numbers) != 2 or not all(map(str.isdecimal, numbers)):
            continue
        run = found.setdefault(owner, Waiting(int(numbers[0]), dict(group["bundles"][0])))
        run.asked += 1
        run.held += group["state"] == "CREATED"
    return found


def goes_first(runs: Mapping[str, Waiting], owner: str) -> str | None:
    """The run for which `owner` should give its slots back; None if it should keep them.

    The first of the waiting runs, by name, that can begin once all runs after it that wait have
    given back what they hold; None if that is `owner`, or there is none, or `owner` doesn't wait.
    """
    waiting = sorted(name for name, run in runs.items() if run.missing)
    if owner not in waiting:
        return None
    for index, name in enumerate(waiting):
        if name == owner:
            return None
        run, later = runs[name], [runs[other] for other in waiting[index + 1 :]]
        freed = {
            key: sum(other.held * other.bundle.get(key, 0.0) for other in later)
            for key in run.bundle
        }
        if all(freed[key] >= run.missing * need for key, need in run.bundle.items()):
            return name
    return None


class Turns:
    """Tells one run when to give its slots back, and when to ask for them again.

    Args:
        owner: name under which the run holds slots.
    """

    def __init__(self, owner: str):
        self._owner = owner
        self._since: float | None = None
        self._looked = float("-inf")
        self._for: str | None = None
        self._back = 0.0

    def begun(self) -> None:
        """The run has what it needs."""
        self._since = None

    def give_way(self, held: int) -> bool:
        """Whether a run below its minimum should give all slots back for another.

        Args:
            held: slots that the run holds.
        """
        now = time.monotonic()
        self._since = self._since or now
        if not held or now - self._since < PATIENCE_SECONDS or not self._may_look(now):
            return False
        self._for = goes_first(runs_in(placement_group_table().values()), self._owner)
        self._back = now
        return self._for is not None

    def stays_back(self) -> bool:
        """Whether the run should not ask for slots yet, as another is about to begin."""
        now = time.monotonic()
        if self._for is None:
            return False
        if self._may_look(now):
            other = runs_in(placement_group_table().values()).get(self._for)
            if other is None or not other.missing or now - self._back > LONGEST_SECONDS:
                self._for, self._since = None, None
        return self._for is not None

    def _may_look(self, now: float) -> bool:
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        return True
