"""Population-based training: the worst go on from the best (Jaderberg et al., 2017).

At marks in tokens the trials of a population are compared, all of them at each mark, however
few train at the same time. A trial goes on once it can't be among the worst quantile any more;
those that are left when all have come are replaced: each by a new trial that goes on from one
of the best quantile, with parameters that are changed a little. So who takes over from whom
follows from the scores alone: not from who came first, nor from how many train at once, nor
from a driver that was killed on the way.

While some wait for a place to train, those that have come to a mark make room for them, and the
one that is furthest behind is next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from manta.record.sweep_state import SweepState, SweepTrial
from manta.tune.scheduler import OVER, SweepProgress

# What a product of two floats may be off, before it is rounded up.
ROUNDING = 1e-9


@dataclass(frozen=True)
class MarkDecision:
    """What becomes of those that came to a mark: all of them best first.

    Attributes:
        go_on: can't be among the worst any more, whoever comes later.
        replaced: the worst, once all have come.
        donors: the best, once all have come.
    """

    go_on: tuple[str, ...]
    replaced: tuple[str, ...] = ()
    donors: tuple[str, ...] = ()


def verdict(came: Sequence[str], coming: int, quantile: float) -> MarkDecision:
    """Compare a population at a mark.

    Args:
        came: the names of those that came to the mark, best first.
        coming: how many may still come.
        quantile: the share that counts as worst, and as best: rounded up to whole trials, but
            never more than half of them.
    """
    members = len(came) + coming
    count = min(math.ceil(members * quantile - ROUNDING), members // 2)
    certain = max(0, len(came) - count)
    if coming:
        return MarkDecision(tuple(came[:certain]))
    return MarkDecision(tuple(came[:certain]), tuple(came[certain:]), tuple(came[:count]))


class Population(SweepProgress):
    """The trials of a population.

    A trial that shares its training at a mark with others is a member like each of them, with
    the same score: it may be replaced before it has a run of its own.

    Args:
        state, forked: see `SweepProgress`.
        marks: token counts at which trials are compared, growing.
        quantile: the share that is replaced.
        take_over: puts a trial into the state that goes on from one of `donors` at a mark, in
            the place of a loser; called with the loser, the donors (best first), the mark.
    """

    def __init__(
        self,
        state: SweepState,
        forked: Callable[[SweepTrial], bool],
        marks: tuple[int, ...],
        quantile: float,
        take_over: Callable[[str, Sequence[str], int], SweepTrial],
    ):
        super().__init__(state, forked, marks)
        self._quantile, self._take_over = quantile, take_over

    def scored(self, name: str, rung: int, value: float) -> bool:
        """As `SweepProgress.scored`; a trial that comes first makes room for those behind it."""
        came = rung not in self[name].scores
        goes_on = super().scored(name, rung, value)
        return goes_on and not (came and any(_stands(one) < rung for one in self._ready()))

    def is_open(self, mark: int) -> bool:
        """Whether trials may still be replaced at a mark."""
        return any(self._awaits(trial, mark) for trial in self._members(mark))

    # ------------------------------------------------------------------ its members

    def _members(self, mark: int) -> list[SweepTrial]:
        """Those that are compared at a mark, whether they come there by themselves or not."""
        left = {taken.loser: taken.at for trial in self.state.trials if (taken := trial.takeover)}
        return [
            trial
            for trial in self.state.trials
            if _entry(trial) < mark and left.get(trial.name, mark) >= mark
        ]

    def _awaits(self, trial: SweepTrial, mark: int) -> bool:
        """Whether it may still be replaced at a mark, or has yet to come there."""
        if mark in trial.passed or self._is_replaced(trial):
            return False
        return self._came(trial, mark) or self._may_come(trial, mark)

    def _came(self, trial: SweepTrial, mark: int) -> bool:
        return mark in self._contender(trial, mark).scores and self._cleared(trial, mark)

    def _may_come(self, trial: SweepTrial, mark: int) -> bool:
        """Whether a trial may yet come to a mark, or one that replaces it at a lower mark.

        One that is held at a lower mark counts also when its training is over: it may have
        finished or diverged before it heard that it was to wait there.
        """
        below = (m for m in self._rungs if _entry(trial) < m < mark and m not in trial.passed)
        if any(self._came(trial, m) for m in below):
            return True
        return trial.status not in OVER and self._can_train(self._contender(trial, mark))

    def _can_train(self, trial: SweepTrial) -> bool:
        """Whether a trial trains by itself, or may yet: its beginning is there or may come."""
        if trial.status in OVER:
            return False
        if trial.parent is None or trial.tokens >= trial.fork_tokens:
            return True
        parent = self[trial.parent]
        return parent.tokens >= trial.fork_tokens or self._can_train(parent)

    def _cleared(self, trial: SweepTrial, below: int) -> bool:
        """Whether a trial has passed all marks below a token count at which it was a member."""
        return all(m in trial.passed for m in self._rungs if _entry(trial) < m < below)

    # ------------------------------------------------------------------ at the marks

    def _judge(self, *, complete: bool) -> bool:
        for mark in self._rungs:
            changed = self._judge_at(mark, complete=complete)
            if changed and complete:
                return True
        return False

    def _judge_at(self, mark: int, *, complete: bool) -> bool:
        members = self._members(mark)
        came = [trial for trial in members if self._came(trial, mark)]
        coming = 0
        if not complete:
            names = {trial.name for trial in came}
            coming = sum(t.name not in names and self._may_come(t, mark) for t in members)
        order = [trial.name for trial in sorted(came, key=lambda t: self._rank(t, mark))]
        found = verdict(order, coming, self._quantile)
        changed = [self._pass(self[name], mark) for name in found.go_on]
        donors = [self._contender(self[name], mark).name for name in found.donors]
        for name in found.replaced:
            if self._awaits(self[name], mark):
                self._replace(self[name], donors, mark)
                changed.append(True)
        return any(changed)

    def _rank(self, trial: SweepTrial, mark: int) -> tuple[float, str, int, str]:
        """Best first. Of trials that are one training the one that trains it is the best.

        So it is replaced only if all are that would go on from it.
        """
        contender = self._contender(trial, mark)
        sign = 1 if self.state.mode == "min" else -1
        return sign * contender.scores[mark], contender.name, trial.fork_tokens, trial.name

    def _replace(self, loser: SweepTrial, donors: Sequence[str], mark: int) -> None:
        taken = self._take_over(loser.name, donors, mark)
        loser.reason = f"replaced by {taken.name}"
        if loser.status != "running":
            loser.status = "stopped"

    def _is_replaced(self, trial: SweepTrial) -> bool:
        others = (each.takeover for each in self.state.trials)
        return any(taken is not None and taken.loser == trial.name for taken in others)

    # ------------------------------------------------------------------- its order

    def _order(self, trial: SweepTrial) -> tuple[int, str]:
        return _stands(trial), trial.name


def _entry(trial: SweepTrial) -> int:
    """Up to which mark, that one included, another trial was compared in its place."""
    return trial.takeover.at if trial.takeover is not None else 0


def _stands(trial: SweepTrial) -> int:
    """How far its history is trained."""
    return max(trial.tokens, trial.fork_tokens)
