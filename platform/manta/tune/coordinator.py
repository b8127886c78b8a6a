"""The coordinator: an actor on the driver's node that alone holds and changes a sweep's state.

Ray Tune asks it what to run next, legs report to it what they have reached, and it writes every
change to `sweep.json`: whatever is killed, the same command continues the sweep. Calls are handled
one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
from ray.actor import ActorHandle

from manta.config.credentials import without_credentials
from manta.elastic.cluster_state import nodes
from manta.elastic.cluster_state.autoscaler import Shortage, may_grow
from manta.elastic.cluster_state.demand import Demand
from manta.elastic.controller.slots import release_all_of
from manta.elastic.messages.driver_actor import beside_driver
from manta.record import number_format
from manta.record.sweep_state import SweepTrial, Takeover, write_sweep
from manta.storage.courier import Courier, Parcel
from manta.storage.run_folder import SWEEP
from manta.storage.store import StorePath
from manta.tune.changes import Changes
from manta.tune.explore import explored
from manta.tune.forks import Forks
from manta.tune.halving import Halving
from manta.tune.pbt import Population
from manta.tune.scheduler import OVER, Outcome, SweepProgress, room, shares
from manta.tune.searchers import Suggester, searcher
from manta.tune.sweep_plan import Leg, Outline, suggestion

FINISHED = "finished"


class Coordinator:
    """Decides which trial trains, forks trials, and writes the sweep's state.

    Args:
        outline: the sweep's outline, before its state has been read.
        id: a name that no other sweep in the cluster has.
        folder: working directory of the command, which relative paths of base and space start
            from; a process that Ray starts has another one.
    """

    def __init__(self, outline: Outline, id: str, folder: str):
        os.chdir(folder)
        outline.open()
        self._outline = outline
        self._id = id
        self._folder, place = self._outline.folder, self._outline.place
        self._folder.mkdir(parents=True, exist_ok=True)
        self._courier = Courier(place) if isinstance(place, StorePath) else None
        self._state = self._outline.state()
        self._forks = Forks(place)
        self._progress = self._opened()
        self._searcher = self._taught() if self._outline.learns else None
        self._tell()  # results of trials that ended just before the driver was killed
        self._legs: dict[str, int] = {}
        self._newest: dict[str, int] = {}
        self._useful: dict[str, int] = {}
        self._stopping = False
        self._notes: list[str] = []
        self._saved = 0
        self._changes = Changes(outline, self._state, self._progress, self._forks)
        self._scaling = self._outline.base.config.scaling
        self._demand = Demand(self._scaling.resources_per_worker)
        self._shortage = Shortage(self._scaling.min, self._scaling.resources_per_worker)
        self._may_grow = may_grow()
        self._save()

    def _opened(self) -> SweepProgress:
        section, rungs = self._outline.config.scheduler, self._outline.rungs
        if self._outline.population:
            return Population(
                self._state, self._forks.lay, rungs, section.quantile, self._take_over
            )
        return Halving(self._state, self._forks.lay, rungs, section.factor)

    # ---------------------------------------------------------------- for Ray Tune

    def next(self) -> str | None:
        """The trial to train now; None if there is none yet, `FINISHED` if there will be none."""
        running = len(self._progress.running)
        if self._stopping:
            return None if running else FINISHED
        self._take_requests()
        self._ask_for_nodes()
        if running >= room(self._capacity(), self._scaling.min, self._outline.config.concurrent):
            return None
        trial = self._next()
        if trial is None:
            return FINISHED if self._progress.over and not self._take_requests(now=True) else None
        self._progress.start(trial.name)
        self._save()
        return trial.name

    def _next(self) -> SweepTrial | None:
        if self._searcher is None:
            return self._progress.next()
        found = self._progress.next(complete=False)
        if found is None and self._suggest():
            found = self._progress.next(complete=False)
        return found or self._progress.next()

    def lost(self, name: str) -> None:
        """Record that the process of a leg died; nothing if the leg had reported its end."""
        if self._progress[name].status != "running":
            return
        release_all_of(self._owner(name))
        self.ended(name, "lost", self._progress[name].tokens, reason="its driver process died")

    # -------------------------------------------------------------------- for legs

    def begin(self, name: str) -> tuple[Leg, str]:
        """What a leg needs to know, and the name that owns its slots in the cluster."""
        self._legs[name] = self._legs.get(name, 0) + 1
        self._changes.begins(name)
        self._useful.pop(name, None)
        trial = self._progress[name]
        start = "from the start"
        if trial.tokens > trial.fork_tokens:
            start = f"from {number_format.count(trial.tokens)} tokens"
        elif trial.parent is not None:
            start = f"from {trial.parent} at {number_format.count(trial.fork_tokens)} tokens"
        self._note(f"{name} trains {start}: {trial.label}")
        return self._outline.leg(name), self._owner(name)

    def reached(self, name: str, tokens: int) -> None:
        """Record that a trial has trained `tokens` tokens of its history."""
        trial = self._progress[name]
        trial.tokens = max(trial.tokens, tokens)

    def scored(self, name: str, rung: int, value: float) -> bool:
        """Record a trial's score at a rung; returns whether it continues."""
        goes_on = self._progress.scored(name, rung, value)
        verb = "continues" if goes_on else "pauses"
        metric = self._state.metric
        self._note(f"{name} {verb} at {number_format.count(rung)} tokens with {metric} {value:.4f}")
        self._tidy_marks()
        self._save()
        return goes_on

    def _take_over(self, loser: str, donors: Sequence[str], mark: int) -> SweepTrial:
        """Replace the trial `loser` by a new one that continues from one of the donors."""
        outline, number = self._outline, len(self._state.trials)
        # A generator for this takeover alone, which is the same after a restart.
        chance = np.random.default_rng([outline.config.search.seed, number, mark])
        donor = self._progress[str(chance.choice(donors))]
        section = outline.config.scheduler
        changed = explored(outline.space, outline.base, donor.params, section, chance)
        outline.add(self._state, [outline.take_over(donor.name, mark, changed)])
        taken = self._state.trials[-1]
        taken.takeover = Takeover(donor=donor.name, loser=loser, at=mark)
        where = f"{number_format.count(mark)} tokens"
        self._note(f"{taken.name} replaces {loser} and continues from {donor.name} at {where}")
        return taken

    def checkpointed(self, name: str, step: int) -> None:
        """A checkpoint is whole: fork the trials that wait for it, remove those not needed."""
        for child in self._children(name):
            self._lay(child)
        self._newest[name] = step
        self._changes.saved(name, step)
        self._tidy(name)

    def ended(
        self,
        name: str,
        outcome: Outcome,
        tokens: int,
        value: float | None = None,
        reason: str = "",
    ) -> None:
        """Record how a leg has ended, and the metric's `value` at its end."""
        trial, reason = self._progress[name], without_credentials(reason)
        self._progress.ended(name, outcome, tokens=tokens, reason=reason, value=value)
        for child in self._children(name):
            self._lay(child)
        again = "; it will be tried again" if trial.status == "waiting" and reason else ""
        came = "" if value is None else f" with {self._state.metric} {value:.4f}"
        how = trial.status if trial.stop_asked else outcome
        self._note(f"{name} {how}{came}{': ' + reason if reason else ''}{again}")
        self._tell()
        self._tidy_marks()
        self._save()

    def stopping(self, name: str) -> bool:
        """Whether the sweep or the trial was asked to stop, so that its leg has to save and end."""
        return self._stopping or self._progress.has_to_stop(name)

    def share_of(self, name: str, useful: int) -> int:
        """Number of workers that a running trial may have; it can use `useful` at most."""
        self._useful[name] = useful
        self._ask_for_nodes()
        return self._shares().get(name, self._scaling.min)

    def _shares(self) -> dict[str, int]:
        legs = {t.name: t.end_tokens - max(t.tokens, t.fork_tokens) for t in self._progress.running}
        return shares(legs, self._capacity(), self._scaling.min, self._scaling.upper)

    def _ask_for_nodes(self) -> None:
        """Request nodes for workers that neither the cluster has room for nor legs request."""
        if self._stopping or not self._may_grow:
            return
        there, asked = self._capacity(), sum(self._shares().values())
        self._demand.have(self._wanted() - max(there, asked))
        if there < self._scaling.min and (news := self._shortage.news(there)) is not None:
            self._note(news)

    def _wanted(self) -> int:
        """Number of workers that could train now, in running trials and in startable ones."""
        running, upper = self._progress.running, self._scaling.upper
        more = self._progress.startable - len(running) + self._unsuggested()
        more = min(more, self._outline.config.concurrent - len(running))
        return sum(self._useful.get(trial.name, upper) for trial in running) + more * upper

    def _unsuggested(self) -> int:
        """Number of suggestions that the searcher has yet to make."""
        total = self._outline.config.search.trials if self._searcher is not None else None
        return max(0, (total or 0) - len(self._state.suggestions))

    # --------------------------------------------------------------- for the driver

    def stop(self) -> None:
        """Stop the sweep: each leg saves and ends after its next step."""
        self._stopping = True
        self._demand.have(0)

    def close(self, status: str) -> None:
        """Write the sweep's last state, with `status`."""
        if status == "finished":
            self._progress.settle()
        self._demand.have(0)
        self._state.status = status  # type: ignore[assignment]
        self._save()
        if self._courier is not None:
            self._courier.flush()
        self._changes.tidy(self._arrived)

    def notes(self) -> list[str]:
        """Lines on what has happened since the last call."""
        self._take_requests()
        taken, self._notes = self._notes, []
        return taken

    # ------------------------------------------------------------------- its state

    def _note(self, message: str) -> None:
        self._notes.append(message)

    def _save(self) -> None:
        self._state.tokens.trained = self._progress.trained
        text = write_sweep(self._folder, self._state)
        self._saved += 1
        if self._courier is not None:
            self._courier.send(Parcel(self._saved, {SWEEP: text.encode()}))

    @property
    def _arrived(self) -> int:
        """Number of the newest state that is where the sweep is kept."""
        return self._saved if self._courier is None else self._courier.delivered

    def _take_requests(self, *, now: bool = False) -> bool:
        """Do what users asked of the sweep since the last turn; returns whether they did."""
        if self._stopping:
            return False
        taken = self._changes.take(now=now)
        for one in taken:
            refused = " was refused" if one.refused else ""
            self._note(f"{one.action} by {one.by}{refused}: {one.answer}")
        if taken:
            self._save()
            self._changes.fork_added(taken)
            self._changes.saved_as(taken, self._saved)
            self._tell()
            self._save()
        self._changes.tidy(self._arrived)
        return bool(taken)

    def _owner(self, name: str) -> str:
        return f"manta-{self._id}-{name}-{self._legs.get(name, 0)}"

    def _capacity(self) -> int:
        return nodes.room_for(self._scaling.resources_per_worker)

    # ---------------------------------------------------------------------- forks

    def _children(self, name: str) -> list[SweepTrial]:
        """Trials that continue from the trial `name`, or will."""
        return [t for t in self._state.trials if t.parent == name and t.status != "stopped"]

    def _lay(self, trial: SweepTrial) -> bool:
        """Fork a trial whose parent has made progress, if the parent has the checkpoint by now."""
        self._forks.look_again(trial)
        return self._forks.lay(trial)

    def _tidy(self, name: str) -> None:
        """Remove the checkpoints of a trial that no trial is still to be forked from."""
        if self._outline.learns:
            return  # a later suggestion may fork from any of them
        needed = {one.fork_step for one in self._children(name) if not self._forks.lay(one)}
        needed |= self._may_be_taken(name)
        for step in self._outline.saves(name):
            if step < self._newest[name] and step not in needed:
                self._forks.remove(name, step)

    def _tidy_marks(self) -> None:
        """Remove checkpoints at marks where no takeover can happen any more."""
        if self._outline.population:
            for name in self._newest:
                self._tidy(name)

    def _may_be_taken(self, name: str) -> set[int]:
        """The steps of a trial at which takeovers may still happen."""
        if not isinstance(self._progress, Population):
            return set()
        steps = self._outline.rungs_of(name).items()
        return {step for step, marks in steps if any(map(self._progress.is_open, marks))}

    # ------------------------------------------------------------------- a searcher

    def _taught(self) -> Suggester:
        """The searcher, with all earlier suggestions and results replayed, to restore its state."""
        config = self._outline.config
        found = searcher(self._outline.space, config.search, self._outline.base)
        told = iter(self._state.told)
        known = 0
        for number, one in enumerate(self._state.suggestions):
            while known < one.told:
                self._teach(found, *next(told))
                known += 1
            found.suggest(str(number))
        for number, value in told:
            self._teach(found, number, value)
        return found

    def _teach(self, taught: Suggester, number: int, value: float | None) -> None:
        result = None if value is None else {self._state.metric: value}
        taught.on_trial_complete(str(number), result, error=value is None)

    def _suggest(self) -> bool:
        """Take a new suggestion from the searcher; returns whether it had one."""
        assert self._searcher is not None
        number = len(self._state.suggestions)
        params = self._searcher.suggest(str(number))
        if not isinstance(params, dict):
            return False
        trials = self._outline.suggest(params)
        self._state.suggestions.append(suggestion(params, trials, len(self._state.told)))
        self._outline.add(self._state, trials)
        self._save()
        return True

    def _tell(self) -> None:
        """Tell the searcher the mean over seeds of each suggestion whose trials have all ended."""
        if self._searcher is None:
            return
        known = {number for number, _ in self._state.told}
        for number, one in enumerate(self._state.suggestions):
            trials = [self._progress[name] for name in one.trials]
            if number in known or any(trial.status not in OVER for trial in trials):
                continue
            ended = [trial for trial in trials if not trial.stop_asked]
            values = [trial.value for trial in ended if trial.value is not None]
            mean = sum(values) / len(values) if len(values) == len(trials) else None
            self._state.told.append((number, mean))
            self._teach(self._searcher, number, mean)


def open_coordinator(outline: Outline, id: str) -> AbstractContextManager[ActorHandle]:
    """A context with a coordinator, which ends with it."""
    return beside_driver(Coordinator, outline, id, os.getcwd())
