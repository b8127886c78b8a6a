"""A tuning before anything runs, and while it does: its phases, each a sweep, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from manta.config.errors import ConfigError, RunError
from manta.config.load import build, change
from manta.config.run import RunConfig
from manta.config.schedule import LrShorthand
from manta.config.tuning import Phase, TuningConfig, read_tuned
from manta.config.units import span_tokens
from manta.elastic.checks.preflight import absolute
from manta.recommend.confirmation import CONSTANT, TUNED
from manta.recommend.critical_batch import DEPTHS, FACTORS, BatchFork, Trunk, forks_of
from manta.recommend.phase_sweep import PhaseSweep, folder_of
from manta.recommend.range_test import RAMP, RatePoint, default_rates, rate_points
from manta.recommend.stairs import Stair, batch_stairs, end_of_warmup, exponent_of, rate_stairs
from manta.recommend.tuning_state import TuningState, read_tuning
from manta.schedule import Schedule
from manta.storage.place import Place
from manta.tune.trials import identity

# Keys that may change while a tuning goes on.
FREE = ("devices", "concurrent", "base")
QUESTIONS: dict[Phase, str] = {
    "range": "Which learning rate is best, and from which one on does training break?",
    "critical": "Which batch is the largest that loses nothing, at each depth?",
    "confirm": "Is the tuned schedule as good as the constant batch, at equal tokens?",
}


class Tuning:
    """The phases of a tuning; each knows its runs once the phases before it are over.

    Attributes:
        config: the tuning.
        run: the run that is tuned.
        schedule: the schedule of that run.

    Raises:
        ConfigError: if the run isn't valid, or can't be tuned.
    """

    def __init__(self, config: TuningConfig):
        self.config = config
        self._written = read_tuned(config)
        self.run = build(self._written, RunConfig)
        self.schedule = Schedule.resolve(self.run.schedule, self.run.train.seq_len)
        self._check()

    def _check(self) -> None:
        source, lr = self._written.source, self.run.schedule.lr
        if isinstance(lr, LrShorthand) and lr.name == "seesaw":
            raise ConfigError(
                f"{source}: schedule.lr.name = 'seesaw' has a batch schedule of its own, and a "
                "tuning looks for one: give another, such as cosine, with a constant batch"
            )
        mixture = self.run.data.mixture
        weights = [each.weight for each in mixture.sources.values()] if mixture else []
        if any(isinstance(weight, list) for weight in weights):
            raise ConfigError(
                f"{source}: data.mixture has weights that change over the run, and the runs of a "
                "tuning are shorter: give constant weights for the tuning (its overrides: "
                "data.mixture.sources.NAME.weight=0.5)"
            )
        if self.run.schedule.history:
            raise ConfigError(
                f"{source}: schedule.history: a tuning is for a run from its start; tune the run "
                "that this one was forked from"
            )

    @property
    def place(self) -> Place:
        """Folder or URL of the tuning."""
        return folder_of(self.config)

    @property
    def horizon(self) -> int:
        """Tokens of the whole run."""
        return self.schedule.horizon

    @property
    def size(self) -> int:
        """The constant batch size: the run's first one, in samples."""
        return self.schedule.batch_size(0)

    @property
    def peak(self) -> float:
        """The highest learning rate of the run's schedule."""
        return max(max(s.first, s.last) for s in self.schedule.lr_segments)

    @property
    def exponent(self) -> float:
        """The power of the batch size by which the rate grows."""
        return exponent_of(self.run.optimizer.type)

    # ------------------------------------------------------------------- the phases

    @cached_property
    def rates(self) -> list[float]:
        """The rates of the range test."""
        return self.config.range.rates or default_rates(self.peak)

    @cached_property
    def rate_points(self) -> list[RatePoint]:
        """The runs of the range test."""
        tokens = self._within("range.tokens")
        return rate_points(self.rates, tokens, self.size, self.run.train.seq_len)

    @property
    def end_of_ramp(self) -> int:
        """Tokens at which the trunk of the range test has passed all rates."""
        shortest = min(each.tokens for each in self.rate_points)
        return int(shortest * RAMP)

    @cached_property
    def sizes(self) -> list[int]:
        """The batch sizes of the forks."""
        return self.config.critical.sizes or [self.size * factor for factor in FACTORS]

    def forks(self, state: TuningState) -> list[BatchFork]:
        """The forks of the phase `critical`, by the rate that was found before."""
        section, warmup = self.config.critical, end_of_warmup(self.schedule)
        depths = [span_tokens(each, self.horizon) for each in section.depths or ()]
        if not depths:
            depths = [warmup + span_tokens(each, self.horizon) for each in DEPTHS]
        trunk = Trunk(self.rate(state), warmup, self.size, self.run.train.seq_len, self.exponent)
        found = forks_of(trunk, depths, self.sizes, self._within("critical.tokens"))
        if max(each.schedule["horizon"] for each in found) > self.horizon:
            raise ConfigError(
                f"critical.depths: forks end after the run's horizon of {self.horizon:,} tokens; "
                "give smaller depths, or a smaller critical.tokens"
            )
        return found

    def _within(self, key: str) -> int:
        tokens = self.config.spans(self.horizon)[key]
        if not 0 < tokens <= self.horizon:
            raise ConfigError(
                f"{key} = {tokens:,}: must be above 0 and at most the run's horizon of "
                f"{self.horizon:,} tokens"
            )
        return tokens

    def sweep(self, phase: Phase, state: TuningState) -> PhaseSweep:
        """The sweep of a phase; of those before it, what they found is in `state`."""
        points: dict[str, dict[str, Any]]
        if phase == "range":
            points = {each.name: {"schedule": each.schedule} for each in self.rate_points}
            seeds = self.config.range.seeds
        elif phase == "critical":
            points = {each.name: {"schedule": each.schedule} for each in self.forks(state)}
            seeds = self.config.critical.seeds
        else:
            tokens = self._within("confirm.tokens")
            points = {
                CONSTANT: self.tuned(state, tokens, constant=True),
                TUNED: self.tuned(state, tokens),
            }
            seeds = self.config.confirm.seeds
        rows = state.micro_batch.recommended if state.micro_batch else None
        overrides = (f"train.micro_batch={rows}",) if rows else ()
        return PhaseSweep(self.config, phase, QUESTIONS[phase], points, seeds, overrides)

    # ------------------------------------------------------------------- the result

    def rate(self, state: TuningState) -> float:
        """The highest rate: the one that was found, or the run's own."""
        return state.range.recommended.value if state.range else self.peak

    def stairs(self, state: TuningState) -> list[Stair]:
        """The batch sizes that were found; the constant one before they are."""
        return state.critical.stairs if state.critical else [(0, self.size)]

    def tuned(
        self, state: TuningState, tokens: int | None = None, *, constant: bool = False
    ) -> dict[str, Any]:
        """What the run's schedule becomes, by dotted key.

        Args:
            state: results of the phases so far.
            tokens: horizon; the run's own if left out. Shares in the schedule are of it.
            constant: whether the batch size stays the first one.
        """
        horizon = tokens or self.horizon
        stairs = [(0, self.size)] if constant else self.stairs(state)
        stairs = [stair for stair in stairs if stair[0] < horizon]
        section = self.run.schedule.model_copy(update={"horizon": horizon})
        shorter = Schedule.resolve(section, self.run.train.seq_len)
        factor = self.rate(state) / self.peak
        lr = rate_stairs(shorter, stairs, self.size, self.exponent, factor)
        return {"schedule": {"horizon": horizon, "lr": lr, "batch": batch_stairs(stairs, horizon)}}

    def tuned_schedule(self, state: TuningState, *, constant: bool = False) -> Schedule:
        """The whole run's schedule as it was found; with the found rate alone if `constant`."""
        written = change(
            self._written, self.tuned(state, constant=constant), {"schedule": "tuning"}
        )
        return Schedule.resolve(build(written, RunConfig).schedule, self.run.train.seq_len)

    def tuned_run(self, state: TuningState) -> RunConfig:
        """The run's config, ready to train."""
        values: dict[str, Any] = self.tuned(state)
        values["run.name"] = f"{self.run.run.name}-tuned"
        if state.micro_batch:
            values["train.micro_batch"] = state.micro_batch.recommended
        written = change(self._written, values, dict.fromkeys(values, "tuning"))
        return absolute(build(written, RunConfig))

    # -------------------------------------------------------------------- the state

    def state(self) -> TuningState:
        """The state on storage, or a new one.

        Raises:
            RunError: if the folder holds another tuning.
        """
        new = TuningState(
            name=self.config.tuning.name,
            asked=_without(self.config.model_dump(mode="json"), FREE),
            base=self.run.model_dump(mode="json", by_alias=True, exclude_none=True),
        )
        there = read_tuning(self.place)
        if there is None:
            return new
        before = RunConfig.model_validate(there.base)
        changed = [key for key in new.asked if new.asked[key] != there.asked.get(key)]
        if not changed and (
            identity(before) != identity(self.run) or before.schedule != self.run.schedule
        ):
            changed = ["base"]
        if changed:
            raise RunError(
                f"{self.place}: this tuning was started with another '{changed[0]}'; to continue "
                "it, use the old config; for a new tuning, choose another tuning.name"
            )
        there.status = "running"
        return there

    def most_rows(self) -> int:
        """Rows of the largest forward pass that a worker of the run can have any use for."""
        largest = max(self.size, *(p.batch for p in self.schedule.plateaus))
        if "critical" in self.config.phases:
            largest = max(largest, *self.sizes)
        return -(-largest // self.run.scaling.min)

    @property
    def finds_micro_batch(self) -> bool:
        """Whether the micro-batch can be looked for: not where it is a part of the result.

        A sharded model's memory depends on the number of its workers.
        """
        section = self.run
        return not (section.parallel.shard or section.train.reproducible)


def _without(content: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}
