"""Population-based training: the worst go on from the best, changed a little.

The method is that of Jaderberg et al. (2017). At marks in tokens each trial is compared with
those that came to the same mark before. One of the worst quantile ends; in its place a new trial
forks from one of the best quantile at that mark, with parameters that are changed by a factor or
drawn again. What it changes is the schedule from there on, so that the new trial is still a run
whose config says all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import JsonValue
from ray.tune.search.sample import Domain

from manta.config.errors import ConfigError
from manta.config.sweep import SchedulerSection
from manta.tune.base import Base
from manta.tune.samplers import Later, any_within, draw, grids_as_choices, is_random, postponed
from manta.tune.space import Space
from manta.tune.variants import Params, derived


def donors(
    scores: Mapping[str, float], name: str, quantile: float, mode: Literal["min", "max"]
) -> list[str]:
    """From whom a trial takes over at a mark: the best there, if it is among the worst.

    Args:
        scores: of those that came to the mark so far, the trial among them.
        name: of the trial.
        quantile: the share that counts as worst, and as best.
        mode: whether the smallest or the largest score is best.

    Returns:
        Names, best first; none if the trial goes on.
    """
    count = int(len(scores) * quantile)
    sign = 1 if mode == "min" else -1
    order = sorted(scores, key=lambda each: (sign * scores[each], each))
    return order[:count] if count and name in order[-count:] else []


def check_space(space: Space) -> None:
    """Refuse what can't be changed while weights stay.

    Raises:
        ConfigError: naming the key.
    """
    for key in space.values:
        if not key.startswith(("_", "schedule.lr", "schedule.batch")):
            raise ConfigError(
                f"{space.where(key)}: {key}: scheduler.type = 'pbt' changes learning rate and "
                "batch size on the way: schedule.lr… and schedule.batch… only; set it in the base"
            )


def explored(
    space: Space,
    base: Base,
    params: Mapping[str, JsonValue],
    section: SchedulerSection,
    generator: np.random.Generator,
) -> Params:
    """Parameters like `params`, each changed by a factor or, at times, drawn again.

    Functions of other choices follow these; what can't be multiplied stays or is drawn again.
    """
    values: dict[str, Any] = {}
    for key, raw in space.values.items():
        spec = grids_as_choices(postponed(raw))
        if isinstance(spec, Later) or not any_within(spec, is_random):
            values[key] = spec
        elif generator.random() < section.resample:
            values[key] = next(draw({key: spec}, generator))[key]
        else:
            values[key] = _changed(spec, params[key], float(generator.choice(section.factors)))
    return derived(space, values, base)


def _changed(spec: Any, value: JsonValue, factor: float) -> Any:
    """A number times the factor, within the bounds of its sampler; anything else as it is."""
    lower, upper = getattr(spec, "lower", None), getattr(spec, "upper", None)
    if not isinstance(spec, Domain) or lower is None or upper is None:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, int):
        return int(min(max(round(value * factor), lower), upper - 1))  # its upper is not drawn
    return float(min(max(value * factor, lower), upper))
