"""One trial: the base with the trial's parameters, as an ordinary run config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydantic import JsonValue

from manta.config.errors import ConfigError
from manta.config.load import build, change
from manta.config.run import RunConfig
from manta.config.sweep import SearchSection, SweepConfig
from manta.schedule import Schedule
from manta.tune.base import Base
from manta.tune.parameters import variants
from manta.tune.space import Space

# Random draws that a searcher's space is checked with: enough to take almost surely every branch.
REHEARSED = 32


def trial_config(base: Base, space: Space, params: Mapping[str, JsonValue]) -> RunConfig:
    """The run config of a trial.

    Args:
        params: values by dotted key; those that begin with an underscore are left out.

    Raises:
        ConfigError: naming the space file, line and key, or the line of the base.
    """
    values = {key: value for key, value in params.items() if not key.startswith("_")}
    origins = {key: space.where("seeds" if key == "run.seed" else key) for key in values}
    return build(change(base.written, values, origins), RunConfig)


@contextmanager
def named_after(space: Space, base: Base) -> Iterator[None]:
    """In it, a mistake in a trial names the space file and the base."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{space.path} on {base.written.source}: {error}") from None


def trial_schedule(base: Base, space: Space, run: RunConfig) -> Schedule:
    """The schedule of a trial.

    Raises:
        ConfigError: naming the space file and the key, if the schedule isn't valid.
    """
    with named_after(space, base):
        return Schedule.resolve(run.schedule, run.train.seq_len)


def rehearse(config: SweepConfig, space: Space, base: Base) -> int:
    """Check trials such as a searcher may suggest, drawn at random; returns how many it will.

    Raises:
        ConfigError: for the first trial that isn't valid, or whose horizon is below a rung.
    """
    draws = SearchSection(type="random", trials=REHEARSED, seed=config.search.seed)
    for params in variants(space, draws, base):
        run = trial_config(base, space, params)
        trial_schedule(base, space, run)
        config.scheduler.rungs_at(run.schedule.horizon)
    return (config.search.trials or 1) * len(space.seeds or (0,))
