"""What the seconds of a training loop went to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from manta.config.metrics import COMPUTING, WAITING_FOR_DATA, WAITING_FOR_OTHERS

# Phases of a step, as rows of metrics have them, by what they count as.
PHASES = {
    "time_data": WAITING_FOR_DATA,
    "time_communication": WAITING_FOR_OTHERS,
    "time_compute": COMPUTING,
    "time_optimizer": COMPUTING,
}


class TimeSpent:
    """Seconds of one group's loop so far, by activity: a mean over ranks where they differ.

    Attributes:
        seconds: activity → seconds since the group's first step.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, activity: str) -> Iterator[None]:
        """What is done in it counts as `activity`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._add(activity, time.perf_counter() - began)

    def take_steps(self, row: Mapping[str, float], count: float) -> None:
        """Count steps.

        Args:
            row: the phases of one step in seconds, by their names in rows of metrics.
            count: how many steps they are a mean of.
        """
        for name, activity in PHASES.items():
            if name in row:
                self._add(activity, row[name] * count)

    def _add(self, activity: str, seconds: float) -> None:
        self.seconds[activity] = self.seconds.get(activity, 0.0) + seconds
