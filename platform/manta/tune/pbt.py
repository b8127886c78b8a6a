"""Population-based training: the worst trials continue from the best (Jaderberg et al., 2017).

At marks in tokens all trials of the population are compared, even if few train at the same time.
A trial continues once it can't be among the worst quantile any more. When all have reached the
mark, the worst are replaced, each by a new trial that continues from one of the best quantile with
slightly changed parameters. So takeovers follow from the scores alone: neither the order in which
trials reach a mark, nor how many train at once, nor the death of a driver changes them.

While some trials wait for workers, a trial that reaches a mark gives up its own, and the trial with
the fewest tokens trains next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from manta.record.sweep_state import SweepState, SweepTrial
from manta.tune.scheduler import OVER, SweepProgress

# Rounding error of a product of two floats, subtracted before the product is rounded up.
ROUNDING = 1e-9


@dataclass(frozen=True)
class MarkDecision:
    """What happens to the trials that have reached a mark; each list has the best first.

    Attributes:
        go_on: trials that can't be among the worst any more, whatever others score.
        replaced: the worst trials; empty until all have reached the mark.
        donors: the best trials; empty until all have reached the mark.
    """

    go_on: tuple[str, ...]
    replaced: tuple[str, ...] = ()
    donors: tuple[str, ...] = ()


def verdict(came: Sequence[str], coming: int, quantile: float) -> MarkDecision:
    """Compare a population at a mark.

    Args:
        came: names of the trials that have reached the mark, best first.
        coming: number of trials that may still reach it.
        quantile: fraction of the population that counts as worst, and as best; rounded up to
            whole trials, but never more than half of them.
    """
    members = len(came) + coming
    count = min(math.ceil(members * quantile - ROUNDING), members // 2)
    certain = max(0, len(came) - count)
    if coming:
        return MarkDecision(tuple(came[:certain]))
    return MarkDecision(tuple(came[:certain]), tuple(came[certain:]), tuple(came[:count]))


class Population(SweepProgress):
    """The trials of a population.

    Trials that share their training at a mark are members each, with the same score: one may be
    replaced before it has a run of its own.

    Args:
        state, forked: see `SweepProgress`.
        marks: token counts at which trials are compared, growing.
        quantile: fraction of the population that is replaced at a mark.
        take_over: called with the loser, the donors (best first) and the mark; adds to the state a
            trial that continues from one of the donors, and returns it.
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
        """As `SweepProgress.scored`, but a trial also pauses while others lag behind the mark."""
        came = rung not in self[name].scores
        goes_on = super().scored(name, rung, value)
        return goes_on and not (came and any(_stands(one) < rung for one in self._ready()))

    def is_open(self, mark: int) -> bool:
        """Whether trials may still be replaced at a mark."""
        return any(self._awaits(trial, mark) for trial in self._members(mark))

    # ------------------------------------------------------------------ its members

    def _members(self, mark: int) -> list[SweepTrial]:
        """Trials that are compared at a mark, with those that share another one's training."""
        left = {taken.loser: taken.at for trial in self.state.trials if (taken := trial.takeover)}
        return [
            trial
            for trial in self.state.trials
            if _entry(trial) < mark and left.get(trial.name, mark) >= mark
        ]

    def _awaits(self, trial: SweepTrial, mark: int) -> bool:
        """Whether a trial may still be replaced at a mark, or has yet to reach it."""
        if mark in trial.passed or self._is_replaced(trial):
            return False
        return self._came(trial, mark) or self._may_come(trial, mark)

    def _came(self, trial: SweepTrial, mark: int) -> bool:
        return mark in self._contender(trial, mark).scores and self._cleared(trial, mark)

    def _may_come(self, trial: SweepTrial, mark: int) -> bool:
        """Whether a trial, or one that replaces it at a lower mark, may yet reach a mark.

        A trial that is held at a lower mark counts even if its training is over: it may have
        finished or diverged before it heard that it had to pause.
        """
        below = (m for m in self._rungs if _entry(trial) < m < mark and m not in trial.passed)
        if any(self._came(trial, m) for m in below):
            return True
        return trial.status not in OVER and self._can_train(self._contender(trial, mark))

    def _can_train(self, trial: SweepTrial) -> bool:
        """Whether a trial can train by itself: it has its fork, or its parent may reach that."""
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
        ranked = [trial.name for trial in sorted(came, key=lambda t: self._rank(t, mark))]
        found = verdict(ranked, coming, self._quantile)
        changed = [self._pass(self[name], mark) for name in found.go_on]
        donors = [self._contender(self[name], mark).name for name in found.donors]
        for name in found.replaced:
            if self._awaits(self[name], mark):
                self._replace(self[name], donors, mark)
                changed.append(True)
        return any(changed)

    def _rank(self, trial: SweepTrial, mark: int) -> tuple[float, str, int, str]:
        """Sort key, best first; of trials that share a training, the one that trains is first.

        So that trial is replaced only if all that would continue from it are replaced too.
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

    # ------------------------------------------------------------- which trains next

    def _priority(self, trial: SweepTrial) -> tuple[int, str]:
        return _stands(trial), trial.name


def _entry(trial: SweepTrial) -> int:
    """The mark at which a trial took over, up to which the trial before it was compared; or 0."""
    return trial.takeover.at if trial.takeover is not None else 0


def _stands(trial: SweepTrial) -> int:
    """Number of tokens of a trial's history that are trained."""
    return max(trial.tokens, trial.fork_tokens)
