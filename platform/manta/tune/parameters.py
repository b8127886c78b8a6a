"""From a space to parameters: every combination of a grid, or draws at random."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import JsonValue

from manta.config.errors import ConfigError, MantaError
from manta.config.sweep import SearchSection
from manta.tune.base import Base, item_at
from manta.tune.samplers import (
    Later,
    any_within,
    draw,
    grids_as_choices,
    is_grid,
    is_random,
    postponed,
    rebuilt,
)
from manta.tune.space import Space

# The parameters of a trial: plain values by dotted key. A key that begins with an underscore is no
# key of the run config; it names a choice that other keys are derived from.
Params = dict[str, JsonValue]


def variants(space: Space, search: SearchSection, base: Base) -> Iterator[Params]:
    """The parameters of all trials of a `grid` or `random` search, each with every seed.

    They are the same on any machine and at every call; the first n draws don't depend on
    `trials`. `grid` takes all combinations of the grids, with `trials` draws of the samplers at
    each. `random` makes `trials` draws, of grids too.

    Raises:
        ConfigError: if `trials` doesn't fit the space, or a function of the space fails.
    """
    for values in _drawn(space, search):
        yield from seeded(space, derived(space, values, base))


def seeded(space: Space, params: Params) -> list[Params]:
    """The parameters with each seed of the space; unchanged if the space has no seeds."""
    if space.seeds is None:
        return [params]
    return [{**params, "run.seed": seed} for seed in space.seeds]


def derived(space: Space, values: Mapping[str, Any], base: Base) -> Params:
    """The parameters that follow from drawn `values`: functions are called, values made plain.

    Raises:
        ConfigError: naming the key whose function fails or returns what can't be a parameter.
    """
    choices = Choices(space, values, base)
    return {key: choices.chosen(key) for key in values}


def completed(
    space: Space, given: Mapping[str, JsonValue], like: Mapping[str, JsonValue], base: Base
) -> Params:
    """The parameters of a trial of which a user gives some.

    Args:
        given: values by dotted key, of the space or of the run config.
        like: values of another trial, for keys that are not given; but functions are called anew.

    Raises:
        ConfigError: if a choice is missing that other keys are derived from, or a function fails.
    """
    values: dict[str, Any] = {}
    for key, raw in space.values.items():
        spec = grids_as_choices(postponed(raw))
        if key in given:
            continue
        if not any_within(spec, is_random):
            values[key] = spec
        elif key in like:
            values[key] = like[key]
        elif key.startswith("_"):
            raise ConfigError(
                f"{space.where(key)}: {key} is missing, a choice that other keys are derived from: "
                f"give {key}=VALUE too, or begin with another trial's parameters"
            )
    more = {key: value for key, value in like.items() if key not in space.values}
    return derived(space, {**more, **values, **given}, base)


def _drawn(space: Space, search: SearchSection) -> Iterator[dict[str, Any]]:
    # One generator for all keys: if each key had its own, all would draw the same numbers.
    generator = np.random.default_rng(search.seed)
    values = {key: postponed(value) for key, value in space.values.items()}
    if search.type == "random":
        values = {key: grids_as_choices(value) for key, value in values.items()}
    _check_trials(space, search, any_within(values, is_random), any_within(values, is_grid))
    for _ in range(search.trials or 1):
        yield from draw(values, generator)


def _check_trials(space: Space, search: SearchSection, random: bool, grid: bool) -> None:
    if random and search.trials is None:
        keys = [key for key, value in space.values.items() if any_within(value, is_random)]
        raise ConfigError(
            f"search.trials is missing: {', '.join(keys)} in {space.path} are drawn at random; set "
            "search.trials to the number of draws, or use tune.grid_search in the space"
        )
    if not random and search.trials not in (None, 1):
        raise ConfigError(
            f"search.trials = {search.trials}: nothing in {space.path} is drawn at random, so "
            "trials would repeat each other; remove search.trials, or give more seeds"
        )


class Choices(Mapping[str, Any]):
    """Argument of a function in a space: the trial's choices, and the base's values for the rest.

    Attributes:
        base: the base, without the trial's choices.
    """

    def __init__(self, space: Space, values: Mapping[str, Any], base: Base) -> None:
        self.base = base
        self._space = space
        self._values = values
        self._known: dict[str, JsonValue] = {}
        self._asked: list[str] = []

    @property
    def config(self) -> Choices:
        """This object: functions written for Ray Tune's `spec` read ``spec.config``."""
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, key: str) -> Any:
        """The value of a dotted key; KeyError if neither trial nor base has it."""
        parts = key.split(".")
        for cut in range(len(parts), 0, -1):
            chosen = ".".join(parts[:cut])
            if chosen in self._values:
                return item_at(self.chosen(chosen), parts[cut:])
        return self.base[key]

    def chosen(self, key: str) -> JsonValue:
        """The value of a key of the space."""
        if key not in self._known:
            if key in self._asked:
                circle = " → ".join([*self._asked, key])
                raise ConfigError(
                    f"{self._space.where(key)}: {key} depends on itself: {circle}; have one of "
                    "these functions not read the other"
                )
            self._asked.append(key)
            self._known[key] = rebuilt(self._values[key], lambda item: self._plain(key, item))
            self._asked.pop()
        return self._known[key]

    def _plain(self, key: str, item: Any) -> Any:
        where = f"{self._space.where(key)}: {key}"
        if not isinstance(item, Later):
            return plain(item, where)
        once, again = (plain(self._call(item, where), where) for _ in range(2))
        if once != again:
            raise ConfigError(
                f"{where}: its function returns {once!r} at one call and {again!r} at the next: a "
                "sweep that is restarted must find the same trials; draw with a sampler in a key "
                "such as '_draw', and derive the value from that"
            )
        return once

    def _call(self, later: Later, where: str) -> Any:
        try:
            return later.function(self) if later.takes_choices else later.function()
        except MantaError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{where}: its function fails: {type(error).__name__}: {error}"
            ) from error


def plain(value: Any, where: str) -> JsonValue:
    """The value with types of JSON: NumPy's numbers become Python's, tuples become lists.

    Raises:
        ConfigError: beginning with `where`, if JSON has no such value.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [plain(item, where) for item in value]
    if (
        isinstance(value, dict)
        and all(isinstance(key, str) for key in value)
        and not is_grid(value)
    ):
        return {key: plain(item, where) for key, item in value.items()}
    raise ConfigError(
        f"{where}: {value!r} can't be a parameter: give a number, text, a list or a mapping; "
        "samplers must be in the space itself, not in what a function returns"
    )
