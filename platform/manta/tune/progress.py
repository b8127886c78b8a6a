"""How a sweep stands and what comes next: pure, so that every order of events can be tested.

A trial's *leg* is one go at training it, from where it stands (its fork, or its newest
checkpoint) to its end or to a pause. What has to outlive a killed driver is in a `SweepState`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from manta.track.sweep_state import SweepState, SweepTrial
from manta.tune.halving import survivors

Outcome = Literal["finished", "stopped", "paused", "diverged", "failed", "lost", "interrupted"]
# Legs of a trial that may break off without a step forward before it is given up.
MOST_FAILURES = 3


class Progress:
    """The trials of a sweep, which of them may train, and what pauses them.

    Args:
        state: of the sweep; changed in place.
        rungs: token counts at which trials are compared, growing; none without halving.
        factor: one in so many goes on at a rung; None where nobody pauses, but is replaced.
        forked: whether a trial's folder is there, or can be made now; asked for those that have
            a parent.
    """

    def __init__(
        self,
        state: SweepState,
        forked: Callable[[SweepTrial], bool],
        *,
        rungs: tuple[int, ...] = (),
        factor: float | None = 3.0,
    ):
        self.state = state
        self._rungs, self._factor, self._forked = rungs, factor, forked
        for trial in state.trials:
            if trial.status == "running":  # its driver was killed
                trial.status = self._left(trial)
            elif trial.status == "failed":  # the same command again: perhaps it was mended
                trial.status, trial.failures, trial.reason = "waiting", 0, ""

    def __getitem__(self, name: str) -> SweepTrial:
        """A trial by its name."""
        return next(trial for trial in self.state.trials if trial.name == name)

    @property
    def running(self) -> list[SweepTrial]:
        """The trials that train."""
        return [trial for trial in self.state.trials if trial.status == "running"]

    # -------------------------------------------------------------- what comes next

    def next(self, *, complete: bool = True) -> SweepTrial | None:
        """The trial to train next: the one with the longest way to go; nothing for now if None.

        Args:
            complete: no other trials will be added.
        """
        self._promote(complete=False)
        if complete and not self.running and not self._ready():
            self._promote(complete=True)
        ready = self._ready()
        return min(ready, key=lambda t: (t.fork_tokens - t.end_tokens, t.name)) if ready else None

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
        passed = self._factor is None or all(
            rung in self._contender(trial, rung).passed
            for rung in self._rungs
            if rung <= trial.fork_tokens
        )
        return passed and self._forked(trial)

    def start(self, name: str) -> None:
        """A leg of the trial begins."""
        self[name].status = "running"

    # --------------------------------------------------------------------- rungs

    def _contender(self, trial: SweepTrial, rung: int) -> SweepTrial:
        """The trial that trains through a rung for `trial`: itself, or an ancestor."""
        while trial.parent is not None and rung <= trial.fork_tokens:
            trial = self[trial.parent]
        return trial

    def scored(self, name: str, rung: int, value: float) -> bool:
        """A trial has come to a rung; returns whether it goes on. Harmless when called again."""
        trial = self[name]
        trial.scores.setdefault(rung, value)
        if self._factor is None:
            if rung not in trial.passed and not self._is_replaced(trial):
                trial.passed.append(rung)
        elif rung not in trial.passed and name in self._survivors(rung, complete=False):
            trial.passed.append(rung)
        return rung in trial.passed

    def scores_at(self, rung: int) -> dict[str, float]:
        """The scores of the trials that came to a rung, by name."""
        return {t.name: t.scores[rung] for t in self.state.trials if rung in t.scores}

    def replace(self, name: str, rung: int) -> None:
        """Another trial takes the place of this one, which ends at a rung."""
        self[name].passed.remove(rung)

    def _is_replaced(self, trial: SweepTrial) -> bool:
        others = (each.takeover for each in self.state.trials)
        return any(taken is not None and taken.loser == trial.name for taken in others)

    def _survivors(self, rung: int, *, complete: bool) -> set[str]:
        if self._factor is None:
            return set()
        return survivors(self.scores_at(rung), self._factor, self.state.mode, complete=complete)

    def _promote(self, *, complete: bool) -> None:
        """Let paused trials go on that are among the best of their rung by now.

        Once nobody else can come to a rung (`complete`), one goes on in any case: from the
        highest rung that has one to promote, so that promotions below it wait for their turn.
        """
        for rung in reversed(self._rungs):
            promoted = False
            for name in sorted(self._survivors(rung, complete=complete)):
                trial = self[name]
                if rung in trial.passed:
                    continue
                trial.passed.append(rung)
                promoted = True
                if trial.status == "paused":
                    trial.status = "waiting"
            if promoted and complete:
                return

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
        trial.reason = reason or (trial.reason if self._is_replaced(trial) else "")
        if outcome == "failed" or outcome == "lost":
            trial.failures = 1 if forward else trial.failures + 1
            trial.status = "failed" if trial.failures >= MOST_FAILURES else "waiting"
        elif outcome == "paused" or outcome == "interrupted":
            trial.status = self._left(trial)
        else:
            trial.status = outcome
            trial.failures = 0

    def settle(self) -> None:
        """The sweep is over: trials that wait share a beginning that did not come to their fork."""
        waiting = [trial for trial in self.state.trials if trial.status == "waiting"]
        for trial, above in [(trial, self._stopped_above(trial)) for trial in waiting]:
            if above.status != "waiting":
                trial.status = above.status
                trial.reason = f"as {above.name}, whose beginning it shares"

    def _stopped_above(self, trial: SweepTrial) -> SweepTrial:
        """The nearest of a trial and its ancestors that does not wait; the root if all do."""
        while trial.status == "waiting" and trial.parent is not None:
            trial = self[trial.parent]
        return trial

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
