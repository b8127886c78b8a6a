"""Ray Tune's searchers, which learn from results of trials, on any space.

They support only independent numbers and choices among plain values. So a space is flattened: each
sampler, at whatever depth, becomes a parameter of its own, and a choice among structures becomes a
choice of the structure's index. A suggestion is put together again by the space's shape.
Parameters of a structure that wasn't chosen are suggested too, and have no effect.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from ray import tune
from ray.tune.search import SEARCH_ALG_IMPORT
from ray.tune.search import Searcher as RaySearcher
from ray.tune.search.sample import Categorical, Domain, Quantized

from manta.config.errors import ConfigError
from manta.config.sweep import SearchSection
from manta.tune.base import Base
from manta.tune.parameters import Params, derived
from manta.tune.samplers import PLAIN, grids_as_choices, is_random, postponed
from manta.tune.space import Space

log = logging.getLogger(__name__)

# Names that searchers have for their seed.
SEED_NAMES = ("seed", "random_state_seed", "random_state")


@dataclass(frozen=True)
class Pick:
    """Placeholder for a suggested value."""

    name: str


@dataclass(frozen=True)
class StructureChoice:
    """Placeholder for one of several structures, chosen by a suggested index."""

    name: str
    options: tuple[Any, ...]


def searcher(space: Space, search: SearchSection, base: Base) -> Suggester:
    """The searcher that a sweep asks for; grids of the space are choices to it.

    Raises:
        ConfigError: if its package is missing, an option is unknown, or it can't search the
            space.
    """
    parameters: dict[str, Any] = {}
    shape = {key: _taken_apart(key, value, parameters) for key, value in _searched(space).items()}
    if not parameters:
        raise ConfigError(
            f"search.type = '{search.type}': {space.path} has no sampler, so there is nothing to "
            "search; use a sampler there, or search.type = 'grid'"
        )
    _check_samplers(parameters, space, search)
    inner = _made(search, space)
    inner.set_search_properties(space.metric, space.mode, parameters)
    return Suggester(inner, shape, space, base, search.trials or 1)


def _check_samplers(parameters: dict[str, Any], space: Space, search: SearchSection) -> None:
    """Try the searcher's type on the space: make one, and have it make a suggestion.

    Raises:
        ConfigError: naming the first key that it can't search.
    """
    whole = _refusal(parameters, space, search)
    if whole is None:
        return
    for name, domain in parameters.items():
        if (reason := _refusal({name: domain}, space, search)) is not None:
            key = name.partition(":")[0]
            raise ConfigError(
                f"{space.where(key)}: {key}: search.type = '{search.type}' can't search a "
                f"{_described(domain)}: {reason}; use tune.uniform, loguniform, randint or choice "
                "there, or search.type = 'random', which supports every sampler"
            )
    raise ConfigError(
        f"{space.path}: search.type = '{search.type}' can't search this space: {whole}; use "
        "another search.type, such as 'random'"
    )


def _refusal(parameters: dict[str, Any], space: Space, search: SearchSection) -> str | None:
    """Why the searcher can't search these parameters; None if it can."""
    asked = _made(search, space)
    try:
        asked.set_search_properties(space.metric, space.mode, parameters)
        asked.suggest("asked")
    except Exception as error:  # each searcher raises exceptions of its own
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _described(domain: Domain) -> str:
    """Type and distribution of a sampler, such as ``quantized loguniform integer``."""
    sampler = domain.get_sampler()
    quantized = isinstance(sampler, Quantized)
    named = f"{sampler.sampler if quantized else sampler} {type(domain).__name__}".lower()
    return f"quantized {named}" if quantized else named


def _searched(space: Space) -> dict[str, Any]:
    return {key: grids_as_choices(postponed(value)) for key, value in space.values.items()}


def _taken_apart(name: str, value: Any, parameters: dict[str, Any]) -> Any:
    """The structure with samplers replaced by placeholders; the samplers go into `parameters`."""
    if isinstance(value, dict):
        items = value.items()
        return {key: _taken_apart(f"{name}:{key}", item, parameters) for key, item in items}
    if isinstance(value, list):
        return [_taken_apart(f"{name}:{i}", item, parameters) for i, item in enumerate(value)]
    if not is_random(value):
        return value
    if isinstance(value, Categorical) and not all(isinstance(c, PLAIN) for c in value.categories):
        options = tuple(
            _taken_apart(f"{name}:{number}", option, parameters)
            for number, option in enumerate(value.categories)
        )
        parameters[name] = tune.choice(list(range(len(options))))
        return StructureChoice(name, options)
    parameters[name] = value
    return Pick(name)


def _assembled(shape: Any, picks: Mapping[str, Any]) -> Any:
    if isinstance(shape, Pick):
        return picks[shape.name]
    if isinstance(shape, StructureChoice):
        return _assembled(shape.options[picks[shape.name]], picks)
    if isinstance(shape, dict):
        return {key: _assembled(item, picks) for key, item in shape.items()}
    return [_assembled(item, picks) for item in shape] if isinstance(shape, list) else shape


def _made(search: SearchSection, space: Space) -> RaySearcher:
    """Ray Tune's searcher without its space.

    `tune.create_searcher` is not used, as it drops unknown options silently.
    """
    searcher_class = SEARCH_ALG_IMPORT[search.type]()
    # Optuna logs each study and each result at INFO; a sweep has progress lines of its own.
    logging.getLogger("optuna").setLevel(logging.WARNING)
    known = inspect.signature(searcher_class.__init__).parameters
    options = {"metric": space.metric, "mode": space.mode, **_seed(search, known)}
    if "budget" in known:  # zoopt needs to know the number of trials
        options["budget"] = search.trials
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    for name in search.options:
        if name not in known and not open_ended:
            raise ConfigError(
                f"search.options.{name}: {search.type} has no such option; it has "
                f"{', '.join(sorted(set(known) - {'self', 'space', 'metric', 'mode'}))}"
            )
    try:
        return cast(RaySearcher, searcher_class(**options, **_options(search)))
    except (AssertionError, ImportError, TypeError, ValueError) as error:
        # Ray Tune's message for a missing package names the package and how to install it.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"search.type = '{search.type}': {reason}") from error


def _options(search: SearchSection) -> dict[str, Any]:
    """The searcher's options; nevergrad's optimizer is looked up by name, as it takes an object."""
    if search.type != "nevergrad":
        return search.options
    try:
        registry = importlib.import_module("nevergrad").optimizers.registry
    except ImportError:
        return search.options  # Ray Tune's own error names the missing package
    name = search.options.get("optimizer", "NGOpt")  # nevergrad's own choice by space and budget
    if name not in registry:
        near = difflib.get_close_matches(str(name), registry, n=3)
        raise ConfigError(
            f"search.options.optimizer = {name!r}: nevergrad has no such optimizer"
            + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    plan = {"optimizer_kwargs": {"budget": search.trials}}
    return {**plan, **search.options, "optimizer": registry[name]}


def _seed(search: SearchSection, known: Mapping[str, Any]) -> dict[str, int]:
    for name in SEED_NAMES:
        if name in known:
            return {} if name in search.options else {name: search.seed}
    log.warning(
        "search.type = '%s' takes no seed: another sweep would get other suggestions", search.type
    )
    return {}


class Suggester(RaySearcher):  # type: ignore[misc]
    """A searcher of Ray Tune that suggests parameters of run configs, `trials` times.

    Suggestions have no seed: with several seeds, train each and report the mean of their results.
    """

    def __init__(
        self, inner: RaySearcher, shape: dict[str, Any], space: Space, base: Base, trials: int
    ) -> None:
        super().__init__(metric=space.metric, mode=space.mode)
        self._inner = inner
        self._shape = shape
        self._space = space
        self._base = base
        self._trials = trials
        self._suggested = 0

    def suggest(self, trial_id: str) -> Params | str | None:
        """Parameters for a trial; None if there are none now, FINISHED if there will be none."""
        if self._suggested >= self._trials:
            return cast(str, RaySearcher.FINISHED)
        picks = self._inner.suggest(trial_id)
        if picks is None or picks == RaySearcher.FINISHED:
            return cast("str | None", picks)
        self._suggested += 1
        return derived(self._space, _assembled(self._shape, picks), self._base)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell the searcher an intermediate result of a trial."""
        self._inner.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the searcher a trial's result, ``{metric: value}``, or that the trial failed."""
        self._inner.on_trial_complete(trial_id, result, error)
