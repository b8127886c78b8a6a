"""What a trial changes that takes over another one's weights: explore (Jaderberg et al., 2017).

Its parameters are those of the donor, changed by a factor or drawn again. What they change is
the schedule from there on, so that the new trial is still a run whose config says all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import JsonValue
from ray.tune.search.sample import Domain

from manta.config.errors import ConfigError
from manta.config.sweep import SchedulerSection
from manta.tune.base import Base
from manta.tune.parameters import Params, derived
from manta.tune.samplers import Later, any_within, draw, grids_as_choices, is_random, postponed
from manta.tune.space import Space


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
