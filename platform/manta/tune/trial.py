"""One trial: the base with the trial's parameters, as an ordinary run config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from manta.config.errors import ConfigError
from manta.config.load import build, change
from manta.config.run import RunConfig
from manta.config.sweep import SearchSection, SweepConfig
from manta.schedule import Schedule
from manta.tune.base import Base
from manta.tune.space import Space
from manta.tune.variants import Params, variants

# Draws that stand for those of a searcher: nearly sure to take every branch once.
REHEARSED = 32


def trial_config(base: Base, space: Space, params: Mapping[str, JsonValue]) -> RunConfig:
    """The run config of a trial; its schedule resolves.

    Args:
        params: values by dotted key; those that begin with an underscore are left out.

    Raises:
        ConfigError: naming the space file, line and key, or the line of the base.
    """
    values = {key: value for key, value in params.items() if not key.startswith("_")}
    origins = {key: space.where("seeds" if key == "run.seed" else key) for key in values}
    config = build(change(base.written, values, origins), RunConfig)
    try:
        Schedule.resolve(config.schedule, config.train.seq_len)
    except ConfigError as error:
        raise ConfigError(f"{space.path} on {base.written.source}: {error}") from None
    return config


def rehearse(config: SweepConfig, space: Space, base: Base) -> int:
    """Build the config of every trial before any is run; says how many there are.

    What a searcher will suggest isn't known: some draws at random stand for it.

    Raises:
        ConfigError: for the first trial that can't be, or whose horizon doesn't hold the rungs.
    """
    count = 0
    for params in _rehearsed(config.search, space, base):
        run = trial_config(base, space, params)
        config.scheduler.rungs_at(run.schedule.horizon)
        count += 1
    learns = config.search.type not in ("grid", "random")
    return (config.search.trials or 1) * len(space.seeds or (0,)) if learns else count


def _rehearsed(search: SearchSection, space: Space, base: Base) -> Iterator[Params]:
    if search.type in ("grid", "random"):
        return variants(space, search, base)
    draws = SearchSection(type="random", trials=REHEARSED, seed=search.seed)
    return variants(space, draws, base)
