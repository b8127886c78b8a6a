"""Notices a run without a new step for longer than people want to wait unasked."""

from __future__ import annotations

import time
from collections.abc import Callable

from manta.elastic.messages.mailbox import GroupProgress


class StallWatch:
    """Watches the steps of a run, of whatever group.

    Args:
        limit: seconds without a new step that are told; None for never.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, limit: float | None, clock: Callable[[], float] = time.monotonic):
        self.limit = limit
        self._clock = clock
        self._moved, self._seen = clock(), (0, 0)
        self._told = False

    def look(self, progress: GroupProgress) -> str | None:
        """Take in the progress of the newest group.

        Returns:
            What people should be told, once for each stall; None for nothing.
        """
        now, seen = self._clock(), (progress.attempt, progress.steps)
        if progress.steps and seen != self._seen:
            self._moved, self._seen, self._told = now, seen, False
        silent = now - self._moved
        if self.limit is None or self._told or silent <= self.limit:
            return None
        self._told = True
        begun = progress.doing or ("" if progress.steps else "waiting for workers")
        doing = f": {begun}" if begun else ""
        return f"no new step for {silent:.0f} s (alerts.stall){doing}"
