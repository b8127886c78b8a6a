"""State of a sweep and which trial trains next: pure, so that every order of events can be tested.

A trial's *leg* is a stretch of its training without a break, from its fork or its newest checkpoint
to its end or to a pause. What has to outlive a killed driver is in a `SweepState`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from manta.record.sweep_state import SweepState, SweepTrial

Outcome = Literal["finished", "stopped", "paused", "diverged", "failed", "lost", "interrupted"]
# Statuses of trials that no leg will train any more, unless the sweep is started again.
OVER = ("finished", "stopped", "diverged", "failed")
# Legs of a trial that may fail in a row without progress before the trial has failed.
MOST_FAILURES = 3


class SweepProgress:
    """The trials of a sweep, and which of them may train; in this class no trial pauses at a rung.

    Args:
        state: the sweep's state; changed in place. Trials are only ever appended.
        forked: called with a trial that has a parent; says whether its folder is there, or makes
            it if the parent has the checkpoint.
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
            elif trial.status == "failed":  # the user may have removed the cause
                trial.status, trial.failures, trial.reason = "waiting", 0, ""
            elif trial.status == "paused" and self._left(trial) == "waiting":  # `settle` paused it
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
        """The trial to train next; None if there is none for now.

        Args:
            complete: whether no other trials will be added.
        """
        self._judge(complete=False)
        self._stop_asked_ones()
        if complete and not self.running:
            while not self._ready() and self._judge(complete=True):
                pass
        return min(self._ready(), key=self._priority, default=None)

    def _priority(self, trial: SweepTrial) -> tuple[int, str]:
        """Sort key by which ready trials train: the one with the most tokens left first."""
        return trial.fork_tokens - trial.end_tokens, trial.name

    @property
    def over(self) -> bool:
        """Whether no trial trains or will train; valid after `next` returned None."""
        return not self.running and not self._ready()

    @property
    def startable(self) -> int:
        """Number of trials that train, or could."""
        return len(self.running) + len(self._ready())

    def _ready(self) -> list[SweepTrial]:
        return [t for t in self.state.trials if t.status == "waiting" and self._may_start(t)]

    def _may_start(self, trial: SweepTrial) -> bool:
        if trial.parent is None:
            return True
        # Compared first, as asking storage (`_forked`) is slow.
        reached = self[trial.parent].tokens >= trial.fork_tokens
        cleared = reached and self._cleared(trial, trial.fork_tokens + 1)
        return cleared and self._forked(trial)

    def start(self, name: str) -> None:
        """Record that a leg of the trial begins."""
        self[name].status = "running"

    # --------------------------------------------------------------------- rungs

    def _contender(self, trial: SweepTrial, rung: int) -> SweepTrial:
        """The trial that trains through a rung for `trial`: itself, or an ancestor."""
        while trial.parent is not None and rung <= trial.fork_tokens:
            trial = self[trial.parent]
        return trial

    def _cleared(self, trial: SweepTrial, below: int) -> bool:
        """Whether a trial has passed all rungs below a token count."""
        return all(r in self._contender(trial, r).passed for r in self._rungs if r < below)

    def scored(self, name: str, rung: int, value: float) -> bool:
        """Record a trial's score at a rung, once; returns whether the trial continues.

        A trial that has to pause may reach the next rung before it hears of it. Its score there
        counts if the trial is promoted later.
        """
        trial = self[name]
        trial.scores.setdefault(rung, value)
        self._judge(complete=False)
        return rung in trial.passed

    def _judge(self, *, complete: bool) -> bool:
        """Let trials pass their rungs as the scores allow; returns whether any did.

        Args:
            complete: whether no trial can reach a rung unless another one passes.
        """
        return False

    def _pass(self, trial: SweepTrial, rung: int) -> bool:
        """Let a trial pass a rung; returns whether it had not passed it before."""
        if rung in trial.passed:
            return False
        trial.passed.append(rung)
        if trial.status == "paused":
            trial.status = self._left(trial)
        return True

    # ------------------------------------------------------------ stops that are asked for

    def ask_to_stop(self, name: str, reason: str) -> None:
        """Stop a trial: at once, or after the last checkpoint that another trial waits for."""
        self[name].stop_asked = reason
        self._stop_asked_ones()

    def has_to_stop(self, name: str) -> bool:
        """Whether a trial was asked to stop, and no other trial waits for what it trains."""
        return bool(self[name].stop_asked) and not self.awaited(name)

    def awaited(self, name: str) -> list[SweepTrial]:
        """The trials that are still to be forked from a trial."""
        children = (t for t in self.state.trials if t.parent == name and t.status not in OVER)
        return [child for child in children if not self._is_forked(child)]

    def _is_forked(self, trial: SweepTrial) -> bool:
        """Whether a trial has been forked; its tokens say so once it is."""
        if trial.tokens >= trial.fork_tokens:
            return True
        # Compared first, as asking storage (`_forked`) is slow.
        return self[str(trial.parent)].tokens >= trial.fork_tokens and self._forked(trial)

    def _stop_asked_ones(self) -> None:
        """End the trials that were asked to stop, don't train now, and are not waited for."""
        changed = True
        while changed:  # a trial that ends may be the last one that its parent trains for
            changed = False
            for trial in self.state.trials:
                if trial.status in ("waiting", "paused") and self.has_to_stop(trial.name):
                    trial.status, trial.reason, changed = "stopped", trial.stop_asked, True

    def cleared(self, name: str, tokens: int) -> bool:
        """Whether a trial has passed all rungs up to a token count."""
        return self._cleared(self[name], tokens + 1)

    def _is_replaced(self, trial: SweepTrial) -> bool:
        """Whether another trial has replaced the trial."""
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
        """Record how a leg has ended, and the tokens of the trial's history that are trained."""
        trial = self[name]
        trial.value = value
        forward = tokens > trial.tokens
        trial.tokens = max(trial.tokens, tokens)
        # The leg may have trained on before it heard that the trial is replaced.
        if self._is_replaced(trial):
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
        self._stop_asked_ones()

    def settle(self) -> None:
        """End the sweep: a waiting trial gets the status of the ancestor that it was to leave.

        The tokens that both share, and the value measured there, count for the trial too.
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
                    f"{trial.parent} has no whole checkpoint after step {trial.fork_step}, which "
                    "this trial was to continue from"
                )
            elif above.status == "paused":
                trial.status = "paused"
                trial.reason = f"paused with {above.name}, which trains its first steps"
            else:
                trial.status = above.status
                trial.reason = f"{above.status} with {above.name}, which trains its first steps"

    def _stopped_above(self, trial: SweepTrial) -> tuple[SweepTrial, int]:
        """The nearest of a trial and its ancestors that doesn't wait, else the root.

        Returned with the tokens that the trial shares with it.
        """
        shared = trial.end_tokens
        while trial.status == "waiting" and trial.parent is not None:
            shared = min(shared, trial.fork_tokens)
            trial = self[trial.parent]
        return trial, shared

    def _left(self, trial: SweepTrial) -> Literal["paused", "waiting", "stopped"]:
        """Status of a trial whose leg ended early: paused if it hasn't passed its rung."""
        if self._is_replaced(trial):
            return "stopped"
        held = any(rung in trial.scores and rung not in trial.passed for rung in self._rungs)
        return "paused" if held else "waiting"

    @property
    def trained(self) -> int:
        """Number of tokens trained so far, with shared ones counted once."""
        return sum(max(0, t.tokens - t.fork_tokens) for t in self.state.trials)


def shares(legs: Mapping[str, int], capacity: int, smallest: int, largest: int) -> dict[str, int]:
    """Number of workers that each running trial may have, so that all fit into the cluster.

    Args:
        legs: number of tokens that each trial has still to train, by name.
        capacity: number of workers that the cluster has room for.
        smallest: number of workers that each trial needs, and gets whatever the capacity is.
        largest: number of workers that each trial can use.

    Returns:
        `smallest` for each; what is left is dealt one by one, to trials with most tokens first.
    """
    found = dict.fromkeys(legs, smallest)
    left = capacity - smallest * len(legs)
    longest_first = sorted(legs, key=lambda name: (-legs[name], name))
    while left > 0 and any(count < largest for count in found.values()):
        for name in longest_first:
            if left > 0 and found[name] < largest:
                found[name] += 1
                left -= 1
    return found


def room(capacity: int, smallest: int, concurrent: int) -> int:
    """Number of trials that may train at once: `concurrent`, if each gets `smallest` workers."""
    return max(1, min(concurrent, math.floor(capacity / smallest)))
