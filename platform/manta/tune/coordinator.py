"""The one place that knows how a sweep stands: an actor beside the driver.

Ray Tune asks it what to run next, the legs tell it what they reach, and it keeps `sweep.json`
up to date, so that whatever is killed, the same command goes on. All calls are handled one
after the other.
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
from manta.tune.explore import explored
from manta.tune.forks import Forks
from manta.tune.halving import Halving
from manta.tune.pbt import Population
from manta.tune.scheduler import OVER, Outcome, SweepProgress, room, shares
from manta.tune.searchers import Suggester, searcher
from manta.tune.sweep_plan import Leg, Outline, suggestion

FINISHED = "finished"


class Coordinator:
    """Decides which trial trains, forks trials, and remembers.

    Args:
        outline: the sweep's outline, before any of its state is known.
        id: a name that no other sweep in the cluster has.
        folder: working directory of the command. Relative paths of base and space start
            there, while a process of Ray's begins in a folder of Ray's.
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
        self._tell()  # what ended just before a driver was killed
        self._legs: dict[str, int] = {}
        self._newest: dict[str, int] = {}
        self._useful: dict[str, int] = {}
        self._stopping = False
        self._notes: list[str] = []
        self._scaling = self._outline.base.config.scaling
        self._wish = Demand(self._scaling.resources_per_worker)
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
        """The trial to train now; None for none yet, `FINISHED` for none any more."""
        running = len(self._progress.running)
        if self._stopping:
            return None if running else FINISHED
        self._ask_for_nodes()
        if running >= room(self._capacity(), self._scaling.min, self._outline.config.concurrent):
            return None
        trial = self._next()
        if trial is None:
            return FINISHED if self._progress.over else None
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
        """The process of a leg died. Harmless when the leg had told that it ended."""
        if self._progress[name].status != "running":
            return
        release_all_of(self._owner(name))
        self.ended(name, "lost", self._progress[name].tokens, reason="its driver process died")

    # -------------------------------------------------------------------- for legs

    def begin(self, name: str) -> tuple[Leg, str]:
        """What a leg needs to know, and under which name it holds what it takes of the cluster."""
        self._legs[name] = self._legs.get(name, 0) + 1
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
        """A trial has come so far."""
        trial = self._progress[name]
        trial.tokens = max(trial.tokens, tokens)

    def scored(self, name: str, rung: int, value: float) -> bool:
        """A trial has come to a rung; returns whether it goes on."""
        goes_on = self._progress.scored(name, rung, value)
        verb = "goes on" if goes_on else "pauses"
        metric = self._state.metric
        self._note(f"{name} {verb} at {number_format.count(rung)} tokens with {metric} {value:.4f}")
        self._tidy_marks()
        self._save()
        return goes_on

    def _take_over(self, loser: str, donors: Sequence[str], mark: int) -> SweepTrial:
        """Put a trial in the place of another one, which goes on from one of the donors."""
        outline, number = self._outline, len(self._state.trials)
        # The same after a restart, and another for each takeover.
        chance = np.random.default_rng([outline.config.search.seed, number, mark])
        donor = self._progress[str(chance.choice(donors))]
        section = outline.config.scheduler
        changed = explored(outline.space, outline.base, donor.params, section, chance)
        outline.add(self._state, [outline.take_over(donor.name, mark, changed)])
        taken = self._state.trials[-1]
        taken.takeover = Takeover(donor=donor.name, loser=loser, at=mark)
        where = f"{number_format.count(mark)} tokens"
        self._note(f"{taken.name} goes on from {donor.name} at {where}, in the place of {loser}")
        return taken

    def checkpointed(self, name: str, step: int) -> None:
        """A trial's checkpoint is whole: fork those that wait for it, remove what nobody needs."""
        for child in self._children(name):
            self._lay(child)
        self._newest[name] = step
        self._tidy(name)

    def ended(
        self,
        name: str,
        outcome: Outcome,
        tokens: int,
        value: float | None = None,
        reason: str = "",
    ) -> None:
        """A leg has ended, with `value` of the metric at its end."""
        trial, reason = self._progress[name], without_credentials(reason)
        self._progress.ended(name, outcome, tokens=tokens, reason=reason, value=value)
        for child in self._children(name):
            self._lay(child)
        again = ", will be tried again" if trial.status == "waiting" and reason else ""
        came = "" if value is None else f" with {self._state.metric} {value:.4f}"
        self._note(f"{name} {outcome}{came}{': ' + reason if reason else ''}{again}")
        self._tell()
        self._tidy_marks()
        self._save()

    def stopping(self) -> bool:
        """Whether the sweep is to be left: legs save and end."""
        return self._stopping

    def share_of(self, name: str, useful: int) -> int:
        """How many workers a running trial may have; more than `useful` would not help it."""
        self._useful[name] = useful
        self._ask_for_nodes()
        return self._shares().get(name, self._scaling.min)

    def _shares(self) -> dict[str, int]:
        legs = {t.name: t.end_tokens - max(t.tokens, t.fork_tokens) for t in self._progress.running}
        return shares(legs, self._capacity(), self._scaling.min, self._scaling.upper)

    def _ask_for_nodes(self) -> None:
        """Ask for the room that trials could use beyond what there is and what legs ask for."""
        if self._stopping or not self._may_grow:
            return
        there, asked = self._capacity(), sum(self._shares().values())
        self._wish.have(self._wanted() - max(there, asked))
        if there < self._scaling.min and (news := self._shortage.news(there)) is not None:
            self._note(news)

    def _wanted(self) -> int:
        """How many workers could train now: in running trials, and in those that might start."""
        running, upper = self._progress.running, self._scaling.upper
        more = self._progress.startable - len(running) + self._unsuggested()
        more = min(more, self._outline.config.concurrent - len(running))
        return sum(self._useful.get(trial.name, upper) for trial in running) + more * upper

    def _unsuggested(self) -> int:
        """How many suggestions the searcher has still to make."""
        total = self._outline.config.search.trials if self._searcher is not None else None
        return max(0, (total or 0) - len(self._state.suggestions))

    # --------------------------------------------------------------- for the driver

    def stop(self) -> None:
        """Leave the sweep at the next step of each leg."""
        self._stopping = True
        self._wish.have(0)

    def close(self, status: str) -> None:
        """The last word on the sweep, until it is taken up again."""
        if status == "finished":
            self._progress.settle()
        self._wish.have(0)
        self._state.status = status  # type: ignore[assignment]
        self._save()
        if self._courier is not None:
            self._courier.flush()

    def notes(self) -> list[str]:
        """What happened since the last call."""
        taken, self._notes = self._notes, []
        return taken

    # ------------------------------------------------------------------- its state

    def _note(self, message: str) -> None:
        self._notes.append(message)

    def _save(self) -> None:
        self._state.tokens.trained = self._progress.trained
        text = write_sweep(self._folder, self._state)
        if self._courier is not None:
            self._courier.send(Parcel(0, {SWEEP: text.encode()}))

    def _owner(self, name: str) -> str:
        return f"manta-{self._id}-{name}-{self._legs.get(name, 0)}"

    def _capacity(self) -> int:
        return nodes.room_for(self._scaling.resources_per_worker)

    # ---------------------------------------------------------------------- forks

    def _children(self, name: str) -> list[SweepTrial]:
        """Those that go on from a trial, or will."""
        return [t for t in self._state.trials if t.parent == name and t.status != "stopped"]

    def _lay(self, trial: SweepTrial) -> bool:
        """Lay the beginning of a trial whose parent has come forward, if that is far enough."""
        self._forks.look_again(trial)
        return self._forks.lay(trial)

    def _tidy(self, name: str) -> None:
        """Remove the checkpoints of a trial that were kept for forks which all are there now."""
        if self._outline.learns:
            return  # nobody knows what will be suggested
        needed = {one.fork_step for one in self._children(name) if not self._forks.lay(one)}
        needed |= self._may_be_taken(name)
        for step in self._outline.saves(name):
            if step < self._newest[name] and step not in needed:
                self._forks.remove(name, step)

    def _tidy_marks(self) -> None:
        """Once all have come to a mark, nobody takes over there any more."""
        if self._outline.population:
            for name in self._newest:
                self._tidy(name)

    def _may_be_taken(self, name: str) -> set[int]:
        """The steps of a trial from which others may still take over."""
        if not isinstance(self._progress, Population):
            return set()
        steps = self._outline.rungs_of(name).items()
        return {step for step, marks in steps if any(map(self._progress.is_open, marks))}

    # ------------------------------------------------------------------- a searcher

    def _taught(self) -> Suggester:
        """The searcher, asked and told again what it was before, so that it is the same."""
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
        """Have a new suggestion, if there is one; returns whether there is."""
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
        """Tell the searcher of suggestions whose trials have ended, with all seeds: their mean."""
        if self._searcher is None:
            return
        known = {number for number, _ in self._state.told}
        for number, one in enumerate(self._state.suggestions):
            trials = [self._progress[name] for name in one.trials]
            if number in known or any(trial.status not in OVER for trial in trials):
                continue
            values = [trial.value for trial in trials if trial.value is not None]
            mean = sum(values) / len(values) if len(values) == len(trials) else None
            self._state.told.append((number, mean))
            self._teach(self._searcher, number, mean)


def open_coordinator(outline: Outline, id: str) -> AbstractContextManager[ActorHandle]:
    """A coordinator for the time of a block."""
    return beside_driver(Coordinator, outline, id, os.getcwd())
