"""The config of a sweep: which runs to try, how to choose them, what each may use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from manta.config.errors import ConfigError
from manta.config.load import Written, build, change, read
from manta.config.section import Section
from manta.config.units import PositiveTokens, Span, format_tokens, span_tokens

# The searchers are Ray Tune's, except bohb, which works only with its own scheduler.
Search = Literal[
    "grid", "random", "optuna", "ax", "bayesopt", "hebo", "hyperopt", "nevergrad", "zoopt"
]
SWEEP_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class SweepSection(Section):
    """Which sweep this is. The name identifies it: the same name continues the sweep."""

    name: str = Field(  # shorter than a run's, which is made from it
        pattern=SWEEP_NAME, description="name of the sweep and of its folder"
    )
    storage: str = Field(
        default="runs", description="folder, or URL in an object store, of the sweeps and runs"
    )


class SearchSection(Section):
    """How trials are chosen from the space."""

    type: Search = Field(description="grid, random, or a searcher of Ray Tune")
    trials: int | None = Field(
        default=None,
        ge=1,
        description="number of trials to draw; in a grid, draws of the random parameters at each "
        "point",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the draws")
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="further arguments of the searcher"
    )

    @model_validator(mode="after")
    def _consistent(self) -> SearchSection:
        if self.type != "grid" and self.trials is None:
            raise ValueError(f"{self.type} needs 'trials', the number of trials to draw")
        if self.type in ("grid", "random") and self.options:
            raise ValueError(
                f"'options' are only for a searcher such as optuna, not for {self.type}"
            )
        return self


# Scheduler type → the keys of `SchedulerSection` that only this type takes.
OWN = {
    "none": (),
    "halving": ("rungs", "first", "factor"),
    "pbt": ("interval", "quantile", "factors", "resample"),
}


class SchedulerSection(Section):
    """How trials are compared, stopped or changed while they run.

    `none` trains every trial to its end. `halving` compares them at rungs, where the best
    1/factor continue (Li et al., 2018). With `pbt` the worst continue from the best, with
    slightly changed parameters (Jaderberg et al., 2017).
    """

    type: Literal["none", "halving", "pbt"] = Field(
        default="none",
        description="none: every trial to its end; halving: successive halving; pbt: a population",
    )
    rungs: list[Span] | None = Field(
        default=None, min_length=1, description="token counts or shares of the horizon, growing"
    )
    first: Span | None = Field(
        default=None, description="the first rung; each next one is factor times as far"
    )
    # Between 2, which saves little because few trials pause, and 4, which is usual for many long
    # trials; in theory, e minimises the worst case.
    factor: float = Field(
        default=3.0, gt=1, description="one in this many trials continues at a rung"
    )
    # Ten chances to change: with fewer nothing adapts, with more, noise decides.
    interval: Span = Field(default="10%", description="tokens between two comparisons of pbt")
    quantile: float = Field(
        default=0.25,
        gt=0,
        le=0.5,
        description="share of the trials that take over the state of as many better ones",
    )
    # The factors are the paper's: large enough to matter, small enough not to jump. A fresh draw
    # now and then, as often as in Ray Tune, keeps the population diverse.
    factors: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        default=(0.8, 1.2),
        description="after a takeover, each parameter is multiplied by one of these",
    )
    resample: float = Field(
        default=0.25, ge=0, le=1, description="probability of a new draw instead of a factor"
    )

    @model_validator(mode="after")
    def _consistent(self) -> SchedulerSection:
        self._refuse_keys_of_others()
        if self.type == "halving" and (self.rungs is None) == (self.first is None):
            raise ValueError(
                "halving needs 'rungs', such as [10%, 30%], or 'first', such as 10%; not both"
            )
        if self.type == "pbt" and span_tokens(self.interval, 10**6) == 0:
            raise ValueError("'interval' must be longer than 0 tokens")
        if self.factors[0] >= self.factors[1]:
            raise ValueError("'factors' must be a smaller and a larger number, such as [0.8, 1.2]")
        return self

    def _refuse_keys_of_others(self) -> None:
        # Compare values, as a dumped config has every key and must load.
        for owner, names in OWN.items():
            for name in names:
                default = type(self).model_fields[name].default
                if owner != self.type and getattr(self, name) != default:
                    raise ValueError(f"'{name}' is only for {owner}, not for {self.type}")

    def rungs_at(self, horizon: int) -> tuple[int, ...]:
        """The token counts at which halving compares, for a horizon; () for other types.

        Raises:
            ConfigError: if the rungs don't grow within the horizon.
        """
        if self.type != "halving":
            return ()
        found = self._geometric(horizon) if self.rungs is None else self._listed(horizon)
        if any(b <= a for a, b in zip((0, *found), (*found, horizon), strict=True)):
            shown = ", ".join(map(format_tokens, found))
            raise ConfigError(
                f"scheduler.{'first' if self.rungs is None else 'rungs'}: rungs at {shown} tokens: "
                f"they must grow from above 0 to below the horizon of {format_tokens(horizon)}"
            )
        return found

    def _listed(self, horizon: int) -> tuple[int, ...]:
        return tuple(span_tokens(rung, horizon) for rung in self.rungs or ())

    def _geometric(self, horizon: int) -> tuple[int, ...]:
        first = span_tokens(self.first or 0, horizon)
        found, rung = [first], first * self.factor
        while 0 < rung < horizon:
            found.append(int(rung))
            rung *= self.factor
        return tuple(found)

    def interval_at(self, horizon: int) -> int:
        """Tokens between two comparisons of pbt."""
        return max(1, span_tokens(self.interval, horizon))

    def marks_at(self, horizon: int) -> tuple[int, ...]:
        """The token counts at which trials are compared before their end; () for none.

        Raises:
            ConfigError: as `rungs_at`.
        """
        if self.type == "pbt":
            interval = self.interval_at(horizon)
            return tuple(range(interval, horizon, interval))
        return self.rungs_at(horizon)


class WorkersSection(Section):
    """Number of workers of each trial; replaces scaling.min and scaling.max of the base."""

    min: int = Field(ge=1, description="fewest workers that a trial trains with")
    max: int | None = Field(
        default=None, ge=1, description="workers at most; the same as min if left out"
    )

    @model_validator(mode="after")
    def _ordered(self) -> WorkersSection:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self


class SweepConfig(Section):
    """Everything that defines a sweep."""

    sweep: SweepSection
    base: str = Field(
        description="path, from the sweep's file, of the run config that all trials start from"
    )
    overrides: list[str] = Field(
        default_factory=list, description="changes of the base, each as dotted.key=value"
    )
    space: str = Field(
        description="path, from the sweep's file, of a search space, or a name in tune_spaces/"
    )
    search: SearchSection = SearchSection(type="grid")
    scheduler: SchedulerSection = SchedulerSection()
    workers: WorkersSection | None = Field(
        default=None, description="workers of each trial; the base's scaling if left out"
    )
    concurrent: int = Field(
        default=1,
        ge=1,
        description="trials, or stages that trials share, that train at the same time",
    )
    # The next four keys replace what the search space sets.
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] | None = Field(
        default=None,
        min_length=1,
        description="each point of the space is trained with each of these seeds",
    )
    horizon: PositiveTokens | None = Field(
        default=None,
        description="tokens after which each trial ends; the base's horizon if left out",
    )
    metric: str | None = Field(
        default=None,
        min_length=1,
        description="metric that trials are compared by; val_loss if left out",
    )
    mode: Literal["min", "max"] | None = Field(
        default=None,
        description="min or max: the better direction of the metric; if left out, the metric's own",
    )

    @model_validator(mode="after")
    def _seeds_differ(self) -> SweepConfig:
        if self.seeds and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds = {self.seeds}: give each seed once, as twice would be the same run twice"
            )
        return self

    @model_validator(mode="after")
    def _schedulers_that_fit(self) -> SweepConfig:
        if self.scheduler.type != "pbt":
            return self
        if self.search.type not in ("grid", "random"):
            raise ValueError(
                "scheduler.type = 'pbt' changes parameters during training, which search.type = "
                f"'{self.search.type}' can't follow: set search.type = 'random'"
            )
        if self.search.trials == 1:
            raise ValueError(
                "scheduler.type = 'pbt' with search.trials = 1: raise search.trials to 4 or more"
            )
        if self.seeds and len(self.seeds) > 1:
            raise ValueError(
                "scheduler.type = 'pbt' can't have several seeds: trials take over each other's "
                "state, seed included; give one seed and raise search.trials"
            )
        return self


def load_sweep(path: str | Path, overrides: Any = ()) -> SweepConfig:
    """A sweep config whose paths (`base`, and `space` if it is a file) are made absolute.

    Both are relative to the folder of the sweep file, wherever the command is run.

    Raises:
        ConfigError: as `load`; or if the base or the space file doesn't exist.
    """
    return located(
        build(read(path, overrides), SweepConfig), Path(path).resolve().parent, str(path)
    )


def located(config: SweepConfig, folder: Path, source: str) -> SweepConfig:
    """A sweep config with absolute paths of its files, which are relative to `folder`.

    Raises:
        ConfigError: if there is no such file; the message calls the config `source`.
    """
    files = {"base": config.base}
    if is_file(config.space):
        files["space"] = config.space
    for key, name in files.items():
        if not (folder / name).is_file():
            raise ConfigError(
                f"{source}: {key} = '{name}': no such file in {folder}; give its path "
                "relative to that folder"
            )
    return config.model_copy(update={key: str(folder / name) for key, name in files.items()})


def is_file(space: str) -> bool:
    """Whether a `space` is the path of a file, not a shipped name."""
    return space.endswith(".py") or "/" in space


def read_base(config: SweepConfig) -> Written:
    """The base with the sweep's overrides, workers and horizon, without any trial's parameters.

    Raises:
        ConfigError: if file or overrides can't be read.
    """
    written = read(config.base, config.overrides, origin="overrides of the sweep")
    values: dict[str, Any] = {}
    if config.workers is not None:
        values |= {"scaling.min": config.workers.min, "scaling.max": config.workers.max}
    origins = dict.fromkeys(values, "workers of the sweep")
    return change(written, values, origins)
