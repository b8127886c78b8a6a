"""What users ask of a sweep while it runs: stop trials, add trials, fork them with other schedules.

Neither changes what any other trial trains. A trial that others are still to be forked from trains
up to the last of these forks, and stops there. A trial that is added continues from the deepest
checkpoint whose steps it shares: one that is there, one that a running trial will write anyway, or
one that a trial is to write which has not begun yet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from manta.config.errors import ConfigError, MantaError, RunError
from manta.record import number_format
from manta.record.param_names import SEED
from manta.record.run_state import utc_now
from manta.record.sweep_asking import refuse_if_impossible
from manta.record.sweep_request import (
    SweepRequest,
    TakenRequest,
    read_request,
    remove_request,
    request_ids,
)
from manta.record.sweep_state import SweepState, SweepTrial
from manta.state.checkpoint_files import PREFIX, found_in
from manta.storage.run_folder import CHECKPOINTS
from manta.train.fork import can_fork
from manta.tune.forks import Forks
from manta.tune.parameters import completed, seeded
from manta.tune.scheduler import SweepProgress
from manta.tune.sweep_plan import Outline
from manta.tune.tree import Branch, Training, attach
from manta.tune.trials import Trial

# Seconds between two looks for requests, in a folder and in a store.
LOOK_SECONDS, STORE_SECONDS = 0.5, 5.0


class Changes:
    """Takes requests from a sweep's folder, each once, and carries them out.

    Args:
        outline: the sweep's outline; added trials join it.
        state: the sweep's state; changed in place.
        progress: the progress of the trials in this state.
        forks: the forks of the sweep.
        clock: returns seconds that only grow.
    """

    def __init__(
        self,
        outline: Outline,
        state: SweepState,
        progress: SweepProgress,
        forks: Forks,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._outline, self._state, self._progress = outline, state, progress
        self._forks, self._place, self._clock = forks, outline.place, clock
        self._rest = LOOK_SECONDS if isinstance(self._place, Path) else STORE_SECONDS
        self._due = -self._rest
        # Number of the state that has a request's answer, by id; older ones are stored already.
        self._answered: dict[str, float] = {request.id: 0 for request in state.requests}
        self._there: set[str] = set()
        self._planned: dict[str, set[int]] = {}
        self._newest: dict[str, int] = {}

    # ------------------------------------------------------------------- requests

    def take(self, *, now: bool = False) -> list[TakenRequest]:
        """Carry out the requests that came since the last look, and record them in the state.

        Args:
            now: look even if the last look was a moment ago.
        """
        if not now and self._clock() < self._due:
            return []
        self._due = self._clock() + self._rest
        taken = []
        with suppress(OSError):  # of a store that can't be reached now: the rest comes later
            self._there = set(ids := request_ids(self._place))
            for id in ids:
                if id not in self._answered:
                    taken.append(self._taken(id))
                    self._answered[id] = math.inf  # until the state is written
        self._state.requests += taken
        return taken

    def saved_as(self, taken: Iterable[TakenRequest], number: int) -> None:
        """Record the number of the state in which these requests are answered."""
        self._answered |= {request.id: number for request in taken}

    def tidy(self, arrived: int) -> None:
        """Remove the files of requests whose answer is in a state that has arrived in storage."""
        for id in [id for id in self._there if self._answered.get(id, math.inf) <= arrived]:
            with suppress(OSError):
                remove_request(self._place, id)
                self._there.remove(id)

    def _taken(self, id: str) -> TakenRequest:
        """Carry out a request; raises OSError, and does nothing, if it can't be read now."""
        try:
            request = read_request(self._place, id)
        except RunError as error:
            unknown = SweepRequest(id=id, action="stop", by="unknown", at=utc_now())
            return _answered(unknown, str(error), refused=True)
        try:
            refuse_if_impossible(self._state, request)
            if request.action == "stop":
                return _answered(request, self._stop(request))
            return self._fork(request) if request.action == "fork" else self._add(request)
        except (MantaError, OSError) as error:
            return _answered(request, str(error), refused=True)

    # ----------------------------------------------------------------------- stop

    def _stop(self, request: SweepRequest) -> str:
        for name in request.trials:
            self._progress.ask_to_stop(name, f"stopped by {request.by} at {request.at}")
        return "; ".join(self._stops(name) for name in request.trials)

    def _stops(self, name: str) -> str:
        awaited = self._progress.awaited(name)
        if self._progress[name].status == "stopped":
            return f"{name} is stopped"
        if not awaited:
            return f"{name} saves a checkpoint and stops"
        last = max(awaited, key=lambda child: child.fork_tokens)
        tokens = number_format.count(last.fork_tokens)
        return f"{name} stops at {tokens} tokens, where {last.name} continues from it"

    # ------------------------------------------------------------------------ add

    def _add(self, request: SweepRequest) -> TakenRequest:
        # All are checked before the first one joins: a request is carried out whole or not at all.
        found = [(trial, self._attached(trial)) for trial in self._asked(request)]
        added = [self._joined(trial, branch) for trial, branch in found]
        answer = "; ".join(map(_begins, added))
        return _answered(request, answer, added=[trial.name for trial in added])

    def _joined(self, trial: Trial, branch: Branch) -> SweepTrial:
        self._outline.add(self._state, [self._outline.join(trial, branch)])
        return self._state.trials[-1]

    def _fork(self, request: SweepRequest) -> TakenRequest:
        outline, name = self._outline, str(request.like)
        step = self._step_of(name, request.step)
        params = completed(outline.space, request.params, self._progress[name].params, outline.base)
        trial = outline.forked(name, step, params)
        tokens = trial.end_tokens - trial.training.tokens_after(step)
        added = self._joined(trial, Branch("", name, step, tokens))
        return _answered(request, _begins(added), added=[added.name])

    def _step_of(self, name: str, step: int | None) -> int:
        """The step of a checkpoint that a trial has: the one asked for, or the newest.

        Raises:
            ConfigError: if there is none, or the trial has yet to be compared before it.
        """
        there = self._steps(name)
        whole = [one for one in sorted(there) if can_fork(self._place / name, one)]
        found = step if step is not None else max(whole, default=0)
        if found not in whole:
            steps = f"steps {', '.join(map(str, whole))}" if whole else "none"
            raise ConfigError(f"{name}@{found}: no checkpoint of this step; there are {steps}")
        if not self._progress.cleared(name, self._outline[name].training.tokens_after(found)):
            raise ConfigError(
                f"{name}@{found}: {name} is compared before this step and has not passed: take an "
                "earlier checkpoint"
            )
        return found

    def _asked(self, request: SweepRequest) -> list[Trial]:
        """The trials of a request, without names: one for each seed that isn't there yet.

        Raises:
            ConfigError: if one isn't valid, or the sweep has all of them.
        """
        outline = self._outline
        like = self._progress[request.like].params if request.like else {}
        params = completed(outline.space, request.params, like, outline.base)
        each = [params] if SEED in params else seeded(outline.space, params)
        trials = [outline.asked(one) for one in each]
        there = {
            trial.training.digest: trial.name
            for trial in outline.trials
            if self._progress[trial.name].status != "stopped"
        }
        new = [trial for trial in trials if trial.training.digest not in there]
        if not new:
            name = there[trials[0].training.digest]
            raise ConfigError(f"{name} trains just that already: change a parameter or the seed")
        return new

    def _attached(self, trial: Trial) -> Branch:
        """The branch of a new trial, from a checkpoint that is there or will be."""
        outline, training = self._outline, trial.training
        saved = {one.name: self._saved(one, training) for one in outline.trials}
        others = [one.training for one in outline.trials]
        while True:
            branch = attach(training, others, outline.branches, saved)
            if branch.parent is None or not self._is_gone(branch):
                return branch
            saved[branch.parent].discard(branch.fork)

    def _is_gone(self, branch: Branch) -> bool:
        """Whether the checkpoint that a branch begins with is damaged, or was just removed."""
        assert branch.parent is not None
        if branch.fork in self._coming(branch.parent):
            return False
        entry = self._progress[branch.parent]
        begun = entry.status != "waiting" or branch.fork <= self._last(branch.parent)
        return begun and not can_fork(self._place / branch.parent, branch.fork)

    def _saved(self, other: Trial, new: Training) -> set[int]:
        """The steps at which a trial has a checkpoint, or will have one, and a new one may fork."""
        shared = min(new.shared_steps(other.training), new.schedule.steps - 1)
        if shared <= self._outline.branches[other.name].fork:
            return set()
        entry = self._progress[other.name]
        steps = self._steps(other.name) | self._coming(other.name)
        waits = entry.status == "waiting" and not entry.stop_asked
        if waits and shared > self._last(other.name):
            # Its leg has yet to begin. With a searcher that learns, it saves at set steps.
            steps |= set(self._outline.saves(other.name)) if self._outline.learns else {shared}
        tokens = other.training.tokens_after
        return {
            step
            for step in steps
            if step <= shared and self._progress.cleared(other.name, tokens(step))
        }

    def _steps(self, name: str) -> set[int]:
        """The steps of a trial's checkpoints."""
        names = found_in(self._place / name / CHECKPOINTS)
        return {int(one.removeprefix(PREFIX)) for one in names}

    def _last(self, name: str) -> int:
        """The step that a trial's next leg would begin with."""
        return max(self._steps(name), default=self._outline.branches[name].fork)

    def _coming(self, name: str) -> set[int]:
        """Steps after which the leg that trains a trial now will save for forks."""
        if self._progress[name].status != "running":
            return set()
        newest = self._newest.get(name, 0)
        return {step for step in self._planned.get(name, ()) if step > newest}

    def begins(self, name: str) -> None:
        """Note the steps after which a leg that begins will save."""
        self._planned[name] = set(self._outline.saves(name))

    def saved(self, name: str, step: int) -> None:
        """Note that a trial has a checkpoint."""
        self._newest[name] = step

    def fork_added(self, taken: Iterable[TakenRequest]) -> None:
        """Fork the added trials whose checkpoint is there, before it can be removed."""
        for name in [name for request in taken for name in request.added]:
            if self._progress[name].parent is not None:
                with suppress(MantaError, OSError):  # it is tried again before the trial begins
                    self._forks.lay(self._progress[name])


def _answered(
    request: SweepRequest, answer: str, *, refused: bool = False, added: list[str] | None = None
) -> TakenRequest:
    return TakenRequest(**request.model_dump(), answer=answer, refused=refused, added=added or [])


def _begins(trial: SweepTrial) -> str:
    start = "from the start"
    if trial.parent is not None:
        start = f"from {trial.parent} at {number_format.count(trial.fork_tokens)} tokens"
    return f"{trial.name} trains {start}: {trial.label}"
