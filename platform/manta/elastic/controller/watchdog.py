"""Workers that do nothing, without an error: seen by the signs of life that don't come.

Each step is a sign, and so is each part of an evaluation and of a save. What has just begun shows
nothing yet, and may take long: it loads, compiles, or waits for storage.
"""

from __future__ import annotations

from typing import Any

import ray

from manta.elastic.messages.mailbox import GroupProgress

# A step may take this many times the usual one before it is called a hang.
PATIENCE = 10.0
# So may what has just begun take this many times the time that is always fine.
BEGINNING = 10.0
ANSWER_SECONDS = 2.0


class Watchdog:
    """Watches one group.

    Args:
        hang: seconds without a sign of life that are always fine.
        attempt: the group's number.
    """

    def __init__(self, hang: float, attempt: int):
        self._hang, self._attempt = hang, attempt

    def barks(self, progress: GroupProgress) -> bool:
        """Whether the group has made no progress for too long."""
        if progress.attempt != self._attempt:
            return False  # the last group's: this one has not begun to train
        limit = BEGINNING * self._hang if progress.begins else self._hang
        return progress.silent > max(limit, PATIENCE * progress.step_seconds)

    def culprits(self, group: Any, progress: GroupProgress) -> dict[int, str]:
        """The ranks that don't answer, or all if they do: they wait for each other then."""
        answers = {
            worker.actor.execute.remote(int): rank
            for rank, worker in enumerate(group.get_workers())
        }
        done, silent = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_SECONDS)
        doing = f" while {progress.doing}" if progress.doing else ""
        seen = f"no sign of life for {progress.silent:.0f} s{doing}"
        stuck = {answers[ref]: f"its process hangs: {seen}, no answer" for ref in silent}
        return stuck or {answers[ref]: seen for ref in done}
