"""A sweep before anything runs: its trials, its stage tree, and which trial trains which steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from manta.config.errors import ConfigError, RunError
from manta.config.run import RunConfig
from manta.config.schedule import Past
from manta.config.sweep import SweepConfig
from manta.record.context import RunContext
from manta.record.param_names import SEED, column_names, flat
from manta.record.sweep_request import TakenRequest
from manta.record.sweep_state import (
    Suggestion,
    SweepState,
    SweepTokens,
    SweepTrial,
    read_sweep,
    trials_in,
)
from manta.storage.place import Place, place_of
from manta.storage.run_folder import SWEEP
from manta.storage.working import working_folder
from manta.tune.base import Base
from manta.tune.explore import check_space
from manta.tune.parameters import Params, seeded, variants
from manta.tune.searchers import searcher
from manta.tune.space import Space, open_space
from manta.tune.tree import Branch, Stage, attach, branches, grow
from manta.tune.trial import rehearse
from manta.tune.trials import Trial, Trials, identity, joints

MOST_TRIALS = 10_000


@dataclass(frozen=True)
class Leg:
    """What is sent to the process that trains a leg of a trial.

    Attributes:
        config: the run's config.
        rungs: token counts at which the trial is compared, growing, by the step that reaches them.
        metric: the metric that ranks the trials.
        fork_step: the step after which the trial leaves its parent; 0 if it has none.
        context: facts of the sweep that W&B shows at each trial.
    """

    config: RunConfig
    rungs: dict[int, list[int]]
    metric: str
    fork_step: int
    context: RunContext


class Outline:
    """The trials of a sweep and the steps they share; a searcher that learns adds trials later.

    Raises:
        ConfigError: if config, space or any trial isn't valid.
    """

    def __init__(self, config: SweepConfig):
        self.config = config
        self.space: Space
        self.base: Base
        self.trials: list[Trial] = []
        self.branches: dict[str, Branch] = {}
        self._by_name: dict[str, Trial] = {}
        self._joints: dict[str, set[int]] = {}
        self.open()
        if self.population:
            check_space(self.space)
        self.count = rehearse(config, self.space, self.base) if self.learns else self._draw()

    def open(self) -> None:
        """Read space and base; to be called again in a process that the outline was sent to."""
        self.space = open_space(self.config)
        self.base = Base.open(self.config, self.space)
        self._trials = Trials(self.config, self.space, self.base, self.trials)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what `open` reads: a space has functions, which can't always be pickled."""
        left_out = ("space", "base", "_trials", "forest")
        return {key: value for key, value in vars(self).items() if key not in left_out}

    def _draw(self) -> int:
        """Make all trials; returns their number."""
        for params in variants(self.space, self.config.search, self.base):
            if len(self.trials) == MOST_TRIALS:
                raise ConfigError(
                    f"{self.space.path}: the space has more than {MOST_TRIALS} trials; use "
                    "search.type = 'random' with search.trials, or a smaller space"
                )
            self._append(self._trials.make(params))
        self.branches = {branch.trial: branch for branch in branches(self.forest)}
        return len(self.trials)

    @property
    def learns(self) -> bool:
        """Whether the searcher suggests trials one by one, learning from earlier results."""
        return self.config.search.type not in ("grid", "random")

    def ask_searcher(self) -> None:
        """Have a searcher that learns make a suggestion, which is discarded.

        Raises:
            ConfigError: if it isn't installed, or naming the key that it can't search.
        """
        if self.learns:
            searcher(self.space, self.config.search, self.base)

    @property
    def place(self) -> Place:
        """Folder or URL where the sweep and its trials' runs are kept."""
        return place_of(self.config.sweep.storage) / self.config.sweep.name

    @property
    def folder(self) -> Path:
        """Folder on the driver's node in which the sweep's driver works."""
        return working_folder(self.place)

    @cached_property
    def forest(self) -> tuple[Stage, ...]:
        """The stage tree of the trials that were drawn, and of those that users added."""
        return grow(trial.training for trial in self.trials)

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """Token counts at which trials are compared, if they pause."""
        return self.config.scheduler.marks_at(self.base.horizon)

    @property
    def population(self) -> bool:
        """Whether the sweep is population-based training."""
        return self.config.scheduler.type == "pbt"

    # ------------------------------------------------------------------ the trials

    def __getitem__(self, name: str) -> Trial:
        """A trial by its name."""
        return self._by_name[name]

    def suggest(self, params: Params) -> list[Trial]:
        """Add what a searcher suggested: a trial for each seed, attached to the stage tree."""
        found = []
        for each in seeded(self.space, params):
            trial = self._trials.make(each)
            others = [other.training for other in self.trials]
            known, saved = self.branches, self._joints
            self.branches[trial.name] = attach(trial.training, others, known, saved)
            self._joints[trial.name] = joints(trial.training)
            self._append(trial)
            found.append(trial)
        return found

    def take_over(self, donor: str, at: int, params: Params) -> Trial:
        """Add a trial that continues from a donor's checkpoint at a mark, with new parameters."""
        taken = self[donor]
        step = taken.training.schedule.reaching(at)
        until = taken.training.tokens_after(step)
        was = taken.config.schedule
        history = [*was.history, Past(until=until, lr=was.lr, batch=was.batch)]
        trial = self._trials.make(params, history, taken.seed)
        tokens = trial.end_tokens - until
        self.branches[trial.name] = Branch(trial.name, donor, step, tokens)
        self._append(trial)
        return trial

    def join(self, trial: Trial, branch: Branch) -> Trial:
        """Add a trial that a user asked for, which has no name yet, with the branch it trains."""
        named = self._trials.named(trial)
        self.branches[named.name] = replace(branch, trial=named.name)
        self._joints[named.name] = joints(named.training)
        self._append(named)
        vars(self).pop("forest", None)  # computed anew, with this trial
        return named

    def asked(self, params: Params) -> Trial:
        """A trial of these parameters, without a name.

        Raises:
            ConfigError: if its config isn't valid.
        """
        return self._trials.unnamed(params)

    def forked(self, parent: str, step: int, params: Params) -> Trial:
        """A trial without a name that is another one up to a step, with a changed schedule then.

        Raises:
            ConfigError: if its config isn't valid, or more than its schedule differs.
        """
        above = self[parent]
        was, until = above.config.schedule, above.training.tokens_after(step)
        history = [
            past.model_copy(update={"horizon": past.horizon or was.horizon})
            for past in [*was.history, Past(until=until, lr=was.lr, batch=was.batch)]
        ]
        trial = self._trials.unnamed(params, history, above.seed)
        if trial.training.shared_steps(above.training) < step:
            raise ConfigError(
                f"{parent}@{step}: only keys of the schedule can change on the way; for other keys "
                "add a trial, which trains with them from its start"
            )
        if trial.training.schedule.steps <= step:
            raise ConfigError(
                f"{parent}@{step}: nothing is left to train from there on: take an earlier step, "
                "or raise schedule.horizon"
            )
        return trial

    def _joined_before(self, entry: SweepTrial, request: TakenRequest) -> None:
        """Add a trial again that a user asked for before the sweep was taken up again."""
        if request.action == "fork":
            trial = self.forked(str(request.like), entry.fork_step, entry.params)
        else:
            trial = self._trials.unnamed(entry.params, seed=entry.seed)
        tokens = trial.end_tokens - trial.training.tokens_after(entry.fork_step)
        self.join(trial, Branch("", entry.parent, entry.fork_step, tokens))

    def _append(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._by_name[trial.name] = trial

    def leg(self, name: str) -> Leg:
        """What the process needs to know that trains a leg of a trial."""
        trial = self[name]
        checkpoint = trial.config.checkpoint
        at = self.saves(name).values()
        # A trial that ends at a step that this one trains takes its last evaluation from there.
        ends = {
            trial.training.tokens_after(branch.fork)
            for branch in self.branches.values()
            if branch.parent == name and not branch.tokens
        }
        config = trial.config.model_copy(
            update={
                "checkpoint": checkpoint.model_copy(update={"at": sorted({*checkpoint.at, *at})}),
                "eval": trial.config.eval.model_copy(
                    update={"at": sorted({*trial.config.eval.at, *ends})}
                ),
            }
        )
        fork = self.branches[name].fork
        return Leg(config, self.rungs_of(name), self.space.metric, fork, self._context(trial))

    def rungs_of(self, name: str) -> dict[int, list[int]]:
        """Rungs of a trial after its fork: token counts, by the step that reaches them."""
        schedule, fork = self[name].training.schedule, self.branches[name].fork
        found: dict[int, list[int]] = {}
        for tokens in self.rungs:
            if (step := schedule.reaching(tokens)) > fork:
                found.setdefault(step, []).append(tokens)
        return found

    def _context(self, trial: Trial) -> RunContext:
        """What W&B shows of the sweep in a trial; flat, so that W&B's plots can use it."""
        names = column_names(key for key in self.space.values if key != SEED)
        shown = {"name": self.config.sweep.name, "label": trial.label, "seed": trial.seed}
        return RunContext(
            job_type="trial",
            label=trial.label,
            config={"sweep": {**shown, **flat(trial.params, names)}},
            metric=self.space.metric,
            mode=self.space.mode,
        )

    def saves(self, name: str) -> dict[int, int]:
        """Steps after which a trial saves for trials that may fork from it, with their tokens."""
        training = self[name].training
        fork = self.branches[name].fork
        if self.learns:
            steps = self._joints[name]
        elif self.population:
            steps = set(self.rungs_of(name))
        else:
            steps = {b.fork for b in self.branches.values() if b.parent == name}
        return {step: training.tokens_after(step) for step in sorted(steps) if step > fork}

    # ------------------------------------------------------------------- the state

    def state(self) -> SweepState:
        """The sweep's state on storage, with trials that were added later, or a new state.

        Raises:
            RunError: if the folder holds another sweep, or something else.
        """
        if not (self.place / SWEEP).exists():
            if trials := trials_in(self.place):
                raise RunError(
                    f"{self.place}: {SWEEP} is missing, which has the scores of the trials there "
                    f"({', '.join(trials)}): put it back from a copy, or choose another sweep.name"
                )
            return self._new_state()
        state = read_sweep(self.place)
        self._add_later_ones(state)
        self._check_same(state)
        state.status, state.population = "running", self.population
        return state

    def _add_later_ones(self, state: SweepState) -> None:
        """Add the trials that the sweep got on the way, in their order."""
        suggested = {one.trials[0]: one for one in state.suggestions}
        joined = {name: request for request in state.requests for name in request.added}
        for trial in state.trials:
            if trial.name in self._by_name:
                continue
            if trial.name in suggested:
                self.suggest(suggested[trial.name].params)
            elif trial.takeover is not None:
                self.take_over(trial.takeover.donor, trial.takeover.at, trial.params)
            elif trial.name in joined:
                self._joined_before(trial, joined[trial.name])

    def _new_state(self) -> SweepState:
        state = SweepState(
            name=self.config.sweep.name,
            question=self.space.question,
            metric=self.space.metric,
            mode=self.space.mode,
            status="running",
            population=self.population,
            base=self.base.config.model_dump(mode="json", by_alias=True, exclude_none=True),
        )
        self.add(state, self.trials)
        return state

    def add(self, state: SweepState, trials: list[Trial]) -> None:
        """Append trials to the state."""
        state.trials += [self._entry(trial) for trial in trials]
        state.tokens = SweepTokens(
            apart=sum(trial.end_tokens for trial in state.trials),
            shared=sum(trial.end_tokens - trial.fork_tokens for trial in state.trials),
            trained=state.tokens.trained,
        )

    def _entry(self, trial: Trial) -> SweepTrial:
        branch = self.branches[trial.name]
        return SweepTrial(
            name=trial.name,
            digest=trial.training.digest,
            label=trial.label,
            params=trial.params,
            seed=trial.seed,
            parent=branch.parent,
            fork_step=branch.fork,
            fork_tokens=trial.training.tokens_after(branch.fork),
            end_tokens=trial.end_tokens,
            status="waiting",
        )

    def _has_base_of(self, state: SweepState) -> bool:
        """Whether the base equals that of the sweep on storage in all that training depends on."""
        try:
            before = RunConfig.model_validate(state.base)
        except ValueError:
            return False
        mine = self.base.config

        def by_step(run: RunConfig) -> tuple[object, ...]:
            return run.schedule, run.data.mixture, run.train.seq_len_warmup

        return identity(before) == identity(mine) and by_step(before) == by_step(mine)

    def _check_same(self, state: SweepState) -> None:
        """Refuse to continue a sweep whose trials on storage are not those of the config.

        Raises:
            RunError: naming the first difference.
        """
        new = self._new_state()
        # A key that a later version adds changes every digest, so the configs decide in the end.
        same = _digests(new) == _digests(state) or (
            _asked(new) == _asked(state) and self._has_base_of(state)
        )
        if not same or (new.metric, new.mode) != (state.metric, state.mode):
            raise RunError(
                f"{self.place}: this sweep was started with other trials: "
                f"{_difference(state, new)}; to continue it, use the old config and space; for a "
                "new sweep, choose another sweep.name"
            )


def _digests(state: SweepState) -> list[tuple[object, ...]]:
    """What each trial trains, as a digest, and the parent and step that it forks from."""
    return [(trial.name, trial.digest, trial.parent, trial.fork_step) for trial in state.trials]


def _asked(state: SweepState) -> list[tuple[object, ...]]:
    """What the space gives each trial, whatever the base, and where the stage tree forks it."""
    return [
        (trial.name, trial.params, trial.seed, trial.parent, trial.fork_step, trial.end_tokens)
        for trial in state.trials
    ]


def _difference(old: SweepState, new: SweepState) -> str:
    if (old.metric, old.mode) != (new.metric, new.mode):
        return f"metric {old.metric} ({old.mode}), now {new.metric} ({new.mode})"
    if len(old.trials) != len(new.trials):
        return f"{len(old.trials)} trials, now {len(new.trials)}"
    for before, now in zip(old.trials, new.trials, strict=True):
        if before.digest != now.digest or before.parent != now.parent:
            change = "" if before.label == now.label else f", now {now.label}"
            return f"{before.name} was {before.label}{change or ' on another base'}"
    return "none"


def suggestion(params: Params, trials: list[Trial], told: int) -> Suggestion:
    """A record of what a searcher suggested."""
    return Suggestion(params=params, trials=[trial.name for trial in trials], told=told)
