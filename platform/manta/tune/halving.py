"""Asynchronous successive halving (ASHA; Li et al., 2020): which trials continue at a rung.

A trial that reaches a rung is compared with those that reached it before. The best 1/factor
continue at once, the others pause with their checkpoint; a paused trial that is among the best
later is promoted then, and continues from its checkpoint. Trials that still share their training
at a rung are one contender: they have one score, which counts once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from manta.record.sweep_state import SweepState, SweepTrial
from manta.tune.scheduler import SweepProgress


def survivors(
    scores: Mapping[str, float], factor: float, mode: Literal["min", "max"], *, complete: bool
) -> set[str]:
    """The best 1/`factor` of the contenders at a rung.

    Args:
        scores: scores of the trials that reached the rung so far, by name.
        factor: reduction factor: 1 in `factor` continues.
        mode: whether the smallest or the largest score is best.
        complete: whether no other trial can reach the rung; the number is then rounded up, so
            that at least one continues.
    """
    share = len(scores) / factor
    count = math.ceil(share) if complete else math.floor(share)
    sign = 1 if mode == "min" else -1
    return set(sorted(scores, key=lambda name: (sign * scores[name], name))[:count])


class Halving(SweepProgress):
    """The trials of a sweep, which pause at rungs unless they are among the best there.

    Args:
        state, forked, rungs: see `SweepProgress`.
        factor: reduction factor: 1 in `factor` continues at a rung.
    """

    def __init__(
        self,
        state: SweepState,
        forked: Callable[[SweepTrial], bool],
        rungs: tuple[int, ...],
        factor: float = 3.0,
    ):
        super().__init__(state, forked, rungs)
        self._factor = factor

    def _judge(self, *, complete: bool) -> bool:
        """Promote the trials that are among the best of their rung by now.

        Once no other trial can reach a rung (`complete`), at least one is promoted: at the highest
        rung that has one to promote; lower rungs follow at later calls.
        """
        changed = False
        for rung in reversed(self._rungs):
            best = survivors(self._scores(rung), self._factor, self.state.mode, complete=complete)
            for name in sorted(best):
                changed = self._pass(self[name], rung) or changed
            if changed and complete:
                return True
        return changed

    def _scores(self, rung: int) -> dict[str, float]:
        """The scores of the contenders at a rung, by name.

        A trial that a user stopped before it passed the rung leaves its place to the others.
        """
        came = (
            trial
            for trial in self.state.trials
            if rung in trial.scores
            and not (trial.status == "stopped" and trial.stop_asked and rung not in trial.passed)
        )
        return {trial.name: trial.scores[rung] for trial in came if self._cleared(trial, rung)}
