"""Find, check, replace and draw Ray Tune's samplers inside a structure of plain values.

Ray Tune calls functions (``tune.sample_from``) in the same pass in which it draws. A function that
reads a choice which is not drawn yet (of a nested grid, or a later key) gets the sampler instead;
if it returns that, the sampler is drawn twice and the two values differ. So here Ray Tune only
draws, and functions are called afterwards (`manta.tune.parameters`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search.sample import Categorical, Domain, Function
from ray.tune.search.variant_generator import generate_variants

from manta.config.errors import ConfigError

PLAIN = (type(None), bool, int, float, str, np.generic)
SAMPLERS = "tune.grid_search, choice, uniform, loguniform, randint, sample_from, …"


@dataclass(frozen=True)
class Later:
    """A function of other choices, hidden from Ray Tune and called once those are drawn."""

    function: Callable[..., Any]
    takes_choices: bool


def draw(values: dict[str, Any], generator: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Every combination of the grids in `values`, with samplers drawn anew for each.

    The only call of `generate_variants`, which Ray Tune marks as an interface for developers. The
    order of combinations and draws follows from `values` and the generator's state.
    """
    for _, resolved in generate_variants(values, random_state=generator):
        yield resolved


def is_grid(value: Any) -> bool:
    """Whether a value is what ``tune.grid_search`` returns."""
    return isinstance(value, dict) and set(value) == {"grid_search"}


def is_random(value: Any) -> bool:
    """Whether a value is a sampler of Ray Tune that draws at random."""
    return isinstance(value, Domain) and not isinstance(value, Function)


def children(value: Any) -> list[Any]:
    """The direct items of a structure or of a choice."""
    if is_grid(value):
        return list(value["grid_search"])
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    return list(value.categories) if isinstance(value, Categorical) else []


def any_within(value: Any, test: Callable[[Any], bool]) -> bool:
    """Whether `test` holds for the value or for anything inside it."""
    return test(value) or any(any_within(child, test) for child in children(value))


def rebuilt(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """A copy of a structure with ``leaf`` applied to everything that has no items."""
    if is_grid(value):
        return tune.grid_search([rebuilt(item, leaf) for item in value["grid_search"]])
    if isinstance(value, dict):
        return {key: rebuilt(item, leaf) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rebuilt(item, leaf) for item in value]
    if isinstance(value, Categorical):
        chosen = copy(value)
        chosen.categories = [rebuilt(item, leaf) for item in value.categories]
        return chosen
    return leaf(value)


def postponed(value: Any) -> Any:
    """A copy with each function replaced by `Later`, which Ray Tune doesn't call."""

    def leaf(item: Any) -> Any:
        return Later(item.func, item.pass_config) if isinstance(item, Function) else item

    return rebuilt(value, leaf)


def grids_as_choices(value: Any) -> Any:
    """A copy with each grid replaced by a random choice among its values."""
    if is_grid(value):
        return tune.choice([grids_as_choices(item) for item in value["grid_search"]])
    if isinstance(value, dict):
        return {key: grids_as_choices(item) for key, item in value.items()}
    if isinstance(value, list):
        return [grids_as_choices(item) for item in value]
    if isinstance(value, Categorical):
        return tune.choice([grids_as_choices(item) for item in value.categories])
    return value


def check_value(value: Any, where: str) -> None:
    """Refuse a value that is neither plain nor a sampler of Ray Tune, nor made of these.

    Raises:
        ConfigError: beginning with `where`.
    """
    if isinstance(value, dict) and set(value) == {"eval"}:
        raise ConfigError(
            f"{where}: Ray Tune runs a mapping whose only key is 'eval' as code; use "
            "tune.sample_from"
        )
    if is_grid(value) and not isinstance(value["grid_search"], list | tuple | range):
        raise ConfigError(f"{where}: give tune.grid_search a list of values")
    if (is_grid(value) or isinstance(value, Categorical)) and not children(value):
        raise ConfigError(f"{where}: the list of choices is empty; give it values")
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where}: the keys of a mapping must be text")
    if not isinstance(value, (*PLAIN, dict, list, tuple, Domain)):
        raise ConfigError(
            f"{where}: {type(value).__name__} is neither a plain value nor a sampler of Ray Tune; "
            f"use {SAMPLERS}"
        )
    for child in children(value):
        check_value(child, where)
