"""Detects hanging workers, which raise no error, by missing signs of life.

Each step is a sign of life, and so is each part of an evaluation and of a save. An activity that
has just begun gives no signs yet and may take long: it loads, compiles, or waits for storage.
"""

from __future__ import annotations

from typing import Any

import ray

from manta.elastic.messages.mailbox import GroupProgress

# A step that takes this many times the usual step counts as a hang.
PATIENCE = 10.0
# An activity that has just begun may take this many times `hang` seconds.
BEGINNING = 10.0
ANSWER_SECONDS = 2.0


class Watchdog:
    """Watches one worker group.

    Args:
        hang: seconds without a sign of life that are always allowed.
        attempt: the group's number in the run.
    """

    def __init__(self, hang: float, attempt: int):
        self._hang, self._attempt = hang, attempt

    def barks(self, progress: GroupProgress) -> bool:
        """Whether the group has made no progress for too long."""
        if progress.attempt != self._attempt:
            return False  # progress of the previous group: this one has not begun to train
        limit = BEGINNING * self._hang if progress.begins else self._hang
        return progress.silent > max(limit, PATIENCE * progress.step_seconds)

    def culprits(self, group: Any, progress: GroupProgress) -> dict[int, str]:
        """The ranks that don't reply, or all ranks if all do: they deadlock then."""
        answers = {
            worker.actor.execute.remote(int): rank
            for rank, worker in enumerate(group.get_workers())
        }
        done, silent = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_SECONDS)
        doing = f" while {progress.doing}" if progress.doing else ""
        seen = f"no sign of life for {progress.silent:.0f} s{doing}"
        stuck = {answers[ref]: f"its process hangs: {seen}, no answer" for ref in silent}
        return stuck or {answers[ref]: seen for ref in done}
