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

# The parameters of a trial: plain values by dotted key. Keys with an underscore are no keys of
# the run config; they tell people what was chosen.
Params = dict[str, JsonValue]


def variants(space: Space, search: SearchSection, base: Base) -> Iterator[Params]:
    """The parameters of all trials of a `grid` or `random` search, each with every seed.

    The same on any machine and at every call; the first n draws don't depend on how many
    there are. `grid` takes all combinations of the grids, and `trials` draws of what is random
    at each of them. `random` makes `trials` draws, from grids too.

    Raises:
        ConfigError: when `trials` doesn't fit the space; when a function of it fails.
    """
    for values in _drawn(space, search):
        yield from seeded(space, derived(space, values, base))


def seeded(space: Space, params: Params) -> list[Params]:
    """The parameters with each seed of the space; as they are if it leaves that to the base."""
    if space.seeds is None:
        return [params]
    return [{**params, "run.seed": seed} for seed in space.seeds]


def derived(space: Space, values: Mapping[str, Any], base: Base) -> Params:
    """The parameters, once all draws are made: functions called, values plain.

    Raises:
        ConfigError: naming the key whose function fails or gives what can't be a parameter.
    """
    choices = Choices(space, values, base)
    return {key: choices.chosen(key) for key in values}


def _drawn(space: Space, search: SearchSection) -> Iterator[dict[str, Any]]:
    # One generator for all: a seed for each key would draw the same numbers for all of them.
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
            f"search.trials is missing: {', '.join(keys)} in {space.path} are drawn at random; "
            "say how often, or write tune.grid_search there"
        )
    if not random and search.trials not in (None, 1):
        raise ConfigError(
            f"search.trials = {search.trials}: nothing in {space.path} is random, so trials would "
            "repeat each other; leave it out, or give more seeds"
        )


class Choices(Mapping[str, Any]):
    """What a function in a space is shown: what the trial chose, else what the base has.

    Attributes:
        base: the base itself, also where the trial chose otherwise.
    """

    def __init__(self, space: Space, values: Mapping[str, Any], base: Base) -> None:
        self.base = base
        self._space = space
        self._values = values
        self._known: dict[str, JsonValue] = {}
        self._asked: list[str] = []

    @property
    def config(self) -> Choices:
        """Itself: Ray Tune's functions of a `spec` write ``spec.config``."""
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
                raise ConfigError(f"{self._space.where(key)}: {key}: depends on itself: {circle}")
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
                f"{where}: its function gives {once!r}, then {again!r}: a sweep that is restarted "
                "must find the same trials; draw with a sampler in a key such as '_draw', and "
                "derive from that"
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
    """The value as JSON has it: NumPy's numbers as Python's, tuples as lists.

    Raises:
        ConfigError: beginning with `where`, when JSON has no such value.
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
        f"{where}: {value!r} can't be a parameter: numbers, text, lists and mappings can; samplers "
        "belong into the space itself, not into a function's answer"
    )
