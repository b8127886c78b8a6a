"""How a sweep stands and what comes next: pure, so that every order of events can be tested.

A trial's *leg* is one go at training it, from where it stands (its fork, or its newest
checkpoint) to its end or to a pause. What has to outlive a killed driver is in a `SweepState`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from manta.record.sweep_state import SweepState, SweepTrial

Outcome = Literal["finished", "stopped", "paused", "diverged", "failed", "lost", "interrupted"]
# Of trials that no leg will train any more, unless the sweep is taken up again.
OVER = ("finished", "stopped", "diverged", "failed")
# Legs of a trial that may break off without a step forward before it is given up.
MOST_FAILURES = 3


class SweepProgress:
    """The trials of a sweep, and which of them may train. Here nobody pauses at a rung.

    Args:
        state: the sweep's state; changed in place. Trials are only ever appended.
        forked: whether a trial's folder is there, or can be made now; asked for those that have
            a parent.
        rungs: token counts at which trials are compared, growing.
    """

    def __init__(
        self,
        state: SweepState,
        forked: Callable[[SweepTrial], bool],
        rungs: tuple[int, ...] = (),
    ):
        self.state = state
        self._forked, self._rungs = forked, rungs
        self._by_name: dict[str, SweepTrial] = {}
        for trial in state.trials:
            if trial.status == "running":  # its driver was killed
                trial.status = self._left(trial)
            elif trial.status == "failed":  # the same command again: perhaps it was mended
                trial.status, trial.failures, trial.reason = "waiting", 0, ""
            elif trial.status == "paused" and self._left(trial) == "waiting":  # with another one
                trial.status, trial.value, trial.reason = "waiting", None, ""

    def __getitem__(self, name: str) -> SweepTrial:
        """A trial by its name."""
        for trial in self.state.trials[len(self._by_name) :]:
            self._by_name[trial.name] = trial
        return self._by_name[name]

    @property
    def running(self) -> list[SweepTrial]:
        """The trials that train."""
        return [trial for trial in self.state.trials if trial.status == "running"]

    # -------------------------------------------------------------- what comes next

    def next(self, *, complete: bool = True) -> SweepTrial | None:
        """The trial to train next; nothing for now if None.

        Args:
            complete: no other trials will be added.
        """
        self._judge(complete=False)
        if complete and not self.running:
            while not self._ready() and self._judge(complete=True):
                pass
        return min(self._ready(), key=self._order, default=None)

    def _order(self, trial: SweepTrial) -> tuple[int, str]:
        """The trial with the longest way to go first."""
        return trial.fork_tokens - trial.end_tokens, trial.name

    @property
    def over(self) -> bool:
        """Nothing trains and nothing will. To be asked after `next` had nothing."""
        return not self.running and not self._ready()

    @property
    def startable(self) -> int:
        """How many trials train, or could."""
        return len(self.running) + len(self._ready())

    def _ready(self) -> list[SweepTrial]:
        return [t for t in self.state.trials if t.status == "waiting" and self._may_start(t)]

    def _may_start(self, trial: SweepTrial) -> bool:
        if trial.parent is None:
            return True
        reached = self[trial.parent].tokens >= trial.fork_tokens  # asking storage is slow
        cleared = reached and self._cleared(trial, trial.fork_tokens + 1)
        return cleared and self._forked(trial)

    def start(self, name: str) -> None:
        """A leg of the trial begins."""
        self[name].status = "running"

    # --------------------------------------------------------------------- rungs

    def _contender(self, trial: SweepTrial, rung: int) -> SweepTrial:
        """The trial that trains through a rung for `trial`: itself, or an ancestor."""
        while trial.parent is not None and rung <= trial.fork_tokens:
            trial = self[trial.parent]
        return trial

    def _cleared(self, trial: SweepTrial, below: int) -> bool:
        """Whether all rungs below a token count let a trial through."""
        return all(r in self._contender(trial, r).passed for r in self._rungs if r < below)

    def scored(self, name: str, rung: int, value: float) -> bool:
        """A trial has come to a rung; returns whether it goes on. Harmless when called again.

        One that is to pause at a rung may come to the next before it hears of it. What it
        scored there counts if it goes on one day.
        """
        trial = self[name]
        trial.scores.setdefault(rung, value)
        self._judge(complete=False)
        return rung in trial.passed

    def _judge(self, *, complete: bool) -> bool:
        """Let go on whoever may by now; returns whether that changed anything.

        Args:
            complete: nobody else will come to a rung unless someone is let go on.
        """
        return False

    def _pass(self, trial: SweepTrial, rung: int) -> bool:
        """Let a trial go on at a rung; returns whether that is new."""
        if rung in trial.passed:
            return False
        trial.passed.append(rung)
        if trial.status == "paused":
            trial.status = self._left(trial)
        return True

    def _is_replaced(self, trial: SweepTrial) -> bool:
        """Whether another trial has taken its place."""
        return False

    # ------------------------------------------------------------------- the end

    def ended(
        self,
        name: str,
        outcome: Outcome,
        *,
        tokens: int,
        reason: str = "",
        value: float | None = None,
    ) -> None:
        """A leg has ended, with so many tokens of the trial's history trained."""
        trial = self[name]
        trial.value = value
        forward = tokens > trial.tokens
        trial.tokens = max(trial.tokens, tokens)
        if self._is_replaced(trial):  # however it ended: it may have gone on before it heard of it
            trial.status = "stopped"
            return
        trial.reason = reason
        if outcome == "failed" or outcome == "lost":
            trial.failures = 1 if forward else trial.failures + 1
            failed = trial.failures >= MOST_FAILURES
            trial.status = "failed" if failed else self._left(trial)
        elif outcome == "paused" or outcome == "interrupted":
            trial.status = self._left(trial)
        else:
            trial.status = outcome
            trial.failures = 0

    def settle(self) -> None:
        """The sweep is over: who still waits shares how the trial stands that it was to leave.

        What that one trained of its history, and came to there, is its own as well.
        """
        waiting = [trial for trial in self.state.trials if trial.status == "waiting"]
        for trial, above, shared in [(one, *self._stopped_above(one)) for one in waiting]:
            if above.status == "waiting":
                continue
            trial.tokens = min(above.tokens, shared)
            trial.value = above.value if above.tokens <= shared else None
            if above.status == "finished":
                trial.status, trial.value = "failed", None
                trial.reason = (
                    f"{trial.parent} has no whole checkpoint after step {trial.fork_step}, from "
                    "which it was to go on"
                )
            elif above.status == "paused":
                trial.status = "paused"
                trial.reason = f"paused with {above.name}, which trains its beginning"
            else:
                trial.status = above.status
                trial.reason = f"as {above.name}, whose beginning it shares"

    def _stopped_above(self, trial: SweepTrial) -> tuple[SweepTrial, int]:
        """The nearest of a trial and its ancestors that does not wait, else the root.

        And the tokens that the trial shares with it.
        """
        shared = trial.end_tokens
        while trial.status == "waiting" and trial.parent is not None:
            shared = min(shared, trial.fork_tokens)
            trial = self[trial.parent]
        return trial, shared

    def _left(self, trial: SweepTrial) -> Literal["paused", "waiting", "stopped"]:
        """How a trial stands that was left on its way: held at a rung, unless promoted since."""
        if self._is_replaced(trial):
            return "stopped"
        held = any(rung in trial.scores and rung not in trial.passed for rung in self._rungs)
        return "paused" if held else "waiting"

    @property
    def trained(self) -> int:
        """Tokens trained so far, those shared counted once."""
        return sum(max(0, t.tokens - t.fork_tokens) for t in self.state.trials)


def shares(legs: Mapping[str, int], capacity: int, smallest: int, largest: int) -> dict[str, int]:
    """How many workers each running trial may have, so that all together fit.

    Args:
        legs: tokens that each has still to train, by name.
        capacity: workers that the cluster has room for.
        smallest: workers that each needs; it is promised these, whatever the capacity.
        largest: workers that each can use.

    Returns:
        What is left after the smallest goes round, the trial with the longest way first.
    """
    found = dict.fromkeys(legs, smallest)
    left = capacity - smallest * len(legs)
    order = sorted(legs, key=lambda name: (-legs[name], name))
    while left > 0 and any(count < largest for count in found.values()):
        for name in order:
            if left > 0 and found[name] < largest:
                found[name] += 1
                left -= 1
    return found


def room(capacity: int, smallest: int, concurrent: int) -> int:
    """How many trials may train at once: as many as asked for, if each can have its smallest."""
    return max(1, min(concurrent, math.floor(capacity / smallest)))
