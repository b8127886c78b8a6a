"""Workers that do nothing, without an error: seen by the steps that don't come."""

from __future__ import annotations

from typing import Any

import ray

# A step may take this many times the usual one before it is called a hang.
PATIENCE = 10.0
# Before the first step there is compiling, loading and evaluating to do.
FIRST_STEP = 10.0
ANSWER_SECONDS = 2.0


class Watchdog:
    """Watches one group.

    Args:
        hang: seconds without a step that are always fine.
        attempt: the group's number.
    """

    def __init__(self, hang: float, attempt: int):
        self._hang, self._attempt = hang, attempt

    def barks(self, progress: Any) -> bool:
        """Whether the group has made no progress for too long."""
        if progress.attempt != self._attempt:
            return False  # the last group's: this one has not begun to train
        limit = self._hang if progress.steps else FIRST_STEP * self._hang
        return bool(progress.silent > max(limit, PATIENCE * progress.step_seconds))

    def culprits(self, group: Any) -> dict[int, str]:
        """The ranks that don't answer, or all if they do: they wait for each other then."""
        answers = {
            worker.actor.execute.remote(int): rank
            for rank, worker in enumerate(group.get_workers())
        }
        done, silent = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_SECONDS)
        stuck = {answers[ref]: "its process hangs: no step, no answer" for ref in silent}
        return stuck or {answers[ref]: "no step for too long" for ref in done}
