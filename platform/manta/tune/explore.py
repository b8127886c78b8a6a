"""Parameters of a trial that takes over another's weights: "explore" of Jaderberg et al., 2017.

They are the donor's, each multiplied by a factor or drawn again. They change the schedule from the
takeover on, so that the new trial's config still describes its whole history.
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
    """Refuse a space with keys that can't change during training.

    Raises:
        ConfigError: naming file, key and remedy.
    """
    for key in space.values:
        if not key.startswith(("_", "schedule.lr", "schedule.batch")):
            raise ConfigError(
                f"{space.where(key)}: {key}: scheduler.type = 'pbt' changes parameters during "
                "training, which only schedule.lr… and schedule.batch… allow; set this key in the "
                "base"
            )


def explored(
    space: Space,
    base: Base,
    params: Mapping[str, JsonValue],
    section: SchedulerSection,
    generator: np.random.Generator,
) -> Params:
    """`params` with each drawn value multiplied by a factor or, at random, drawn again.

    Values that aren't numbers stay or are drawn again. Functions of other choices are called anew.
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
    """A number times the factor, within its sampler's bounds; any other value unchanged."""
    lower, upper = getattr(spec, "lower", None), getattr(spec, "upper", None)
    if not isinstance(spec, Domain) or lower is None or upper is None:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, int):
        return int(min(max(round(value * factor), lower), upper - 1))  # randint excludes upper
    return float(min(max(value * factor, lower), upper))
