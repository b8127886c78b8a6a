"""The run config that all trials of a sweep start from, and what a space can read from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from manta.config.errors import ConfigError
from manta.config.evaluation import EVALUATORS
from manta.config.evaluation_files import evaluation_of
from manta.config.load import Written, build, change
from manta.config.metrics import VAL_LOSS, VAL_LOSS_AVERAGE, VAL_TERM, of_evaluator
from manta.config.run import RunConfig
from manta.config.sweep import SweepConfig, read_base
from manta.schedule import Schedule
from manta.tune.space import Space


def _check_evaluated(config: SweepConfig, metric: str, run: RunConfig) -> None:
    """Refuse to compare trials by a metric of evaluators that they don't have in time.

    Raises:
        ConfigError: naming the remedy.
    """
    if config.scheduler.type != "none":
        raise ConfigError(
            f"scheduler.type = '{config.scheduler.type}' with metric = '{metric}': evaluators "
            "measure it beside training, whenever a device is free, so at the moment at which "
            "trials are compared some have a value and others don't: compare them by val_loss, or "
            "set scheduler.type to none, where each trial waits for its last result"
        )
    evaluation, evaluator = evaluation_of(run), metric.partition("/")[0]
    names = [name for section in EVALUATORS for name in getattr(evaluation, section, None) or ()]
    if evaluator not in names:
        there = f"there are {', '.join(names)}" if names else "the base has none"
        raise ConfigError(
            f"{config.base}: trials are compared by {metric}, but eval.evaluators has no evaluator "
            f"called '{evaluator}': {there}"
        )


@dataclass(frozen=True)
class Base:
    """The base of a sweep: a valid run config, with the sweep's overrides, workers and horizon.

    Spaces can read it, so that one space fits many bases: by dotted key like a mapping
    (``base["train.seq_len"]``), or by the properties below.
    """

    written: Written
    config: RunConfig
    schedule: Schedule

    @classmethod
    def open(cls, config: SweepConfig, space: Space) -> Base:
        """Read the base of a sweep.

        Raises:
            ConfigError: if the base isn't valid, or never measures the space's metric.
        """
        written = read_base(config)
        if space.horizon is not None:
            values = {"schedule.horizon": space.horizon}
            written = change(written, values, {"schedule.horizon": "horizon of the sweep"})
        run = build(written, RunConfig)
        if of_evaluator(space.metric):
            _check_evaluated(config, space.metric, run)
        measured = space.metric in (VAL_LOSS, VAL_LOSS_AVERAGE) or space.metric.startswith(VAL_TERM)
        if measured and run.eval.every is None:
            raise ConfigError(
                f"{config.base}: eval.every is missing, but trials are compared by {space.metric}: "
                "add it there or to the sweep's overrides, such as eval.every=1M"
            )
        return cls(written, run, Schedule.resolve(run.schedule, run.train.seq_len))

    def __getitem__(self, dotted: str) -> Any:
        """The value of a key as in a config file; KeyError if the config has no such key."""
        return item_at(self.config.model_dump(mode="json"), dotted.split("."))

    @property
    def horizon(self) -> int:
        """Tokens of the whole run."""
        return self.schedule.horizon

    @property
    def peak(self) -> float:
        """The highest learning rate of the base's schedule."""
        return max(max(s.first, s.last) for s in self.schedule.lr_segments)

    @property
    def batch(self) -> int:
        """The batch size of the first step, in samples."""
        return self.schedule.batch_size(0)

    def lr_times(self, factor: float) -> Any:
        """The learning-rate schedule with all rates multiplied."""
        return _times(self["schedule.lr"], factor, ("peak", "floor", "from", "to"))

    def batch_times(self, factor: int) -> Any:
        """The batch schedule with all sizes multiplied."""
        return _times(self["schedule.batch"], factor, ("from", "to", "multiple_of"))

    def mixture(self, draw: int) -> Any:
        """The base's sources with weights drawn evenly from all mixtures; equal for equal draws.

        Raises:
            ConfigError: if the base has no mixture, whose sources these are.
        """
        if self.config.data.mixture is None:
            raise ConfigError("data.mixture.sources of the base: name the sources to mix")
        sources = self["data.mixture.sources"]
        weights = np.random.default_rng(draw).dirichlet(np.ones(len(sources)))
        return {
            name: {**source, "weight": round(float(weight), 4)}
            for (name, source), weight in zip(sources.items(), weights, strict=True)
        }


def item_at(value: Any, parts: Iterable[str]) -> Any:
    """The item of a nested structure at keys and indices; KeyError if there is none."""
    for part in parts:
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (IndexError, TypeError, ValueError):
            raise KeyError(part) from None
    return value


def _times(schedule: Any, factor: float, keys: tuple[str, ...]) -> Any:
    if isinstance(schedule, list):
        return [_times(segment, factor, keys) for segment in schedule]
    if not isinstance(schedule, Mapping):
        return schedule * factor
    return {
        key: value * factor if key in keys and value is not None else value
        for key, value in schedule.items()
    }
