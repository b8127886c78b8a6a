"""Read a space file: what a sweep varies, as Python with Ray Tune's own samplers.

The file declares, at the top level, ``space`` (dotted keys of the run config → a sampler, a value,
or a structure with samplers inside), ``metric``, ``mode``, ``horizon`` and ``seeds``; its
docstring is the question that the sweep answers. A key that begins with an underscore is no key of
the config, but a choice that other keys use. A value that is derived from other choices is
``tune.sample_from(function)``.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from manta.config.errors import ConfigError, MantaError
from manta.config.metrics import COMPARABLE, VAL_LOSS, better, of_evaluator
from manta.config.sweep import SweepConfig, is_file
from manta.config.units import parse_tokens
from manta.tune.samplers import check_value

SHIPPED = Path(__file__).parents[3] / "tune_spaces"
# Keys that a space may not have, as a trial's name and folder follow from the sweep's.
IDENTITY = ("run", "run.name", "run.storage")
NAMES = {"space", "metric", "mode", "horizon", "seeds"}


@dataclass(frozen=True)
class Space:
    """A space file that was read and is valid by itself.

    Attributes:
        path: the file.
        question: the question that the space answers: its docstring.
        values: a sampler, value or structure of them, by dotted key.
        metric: the metric that ranks the trials.
        mode: whether the smallest or the largest is best.
        horizon: tokens of each trial; None for the base's.
        seeds: each trial is run with each of them; None for the base's one.
        lines: where keys and names stand in the file.
    """

    path: Path
    question: str
    values: dict[str, Any]
    metric: str = VAL_LOSS
    mode: Literal["min", "max"] = "min"
    horizon: int | None = None
    seeds: tuple[int, ...] | None = None
    lines: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    def where(self, key: str) -> str:
        """The file and, if known, the line of a key or name."""
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)


def open_space(config: SweepConfig) -> Space:
    """The space of a sweep: what the sweep's config sets replaces what the file sets.

    Raises:
        ConfigError: if the file is missing, or the file or the sweep isn't valid.
    """
    space = load_space(find_space(config.space))
    if config.metric is not None:
        _check_metric(config.metric, "metric of the sweep")
    metric = config.metric or space.metric
    mode = space.mode if metric == space.metric else better(metric) or config.mode
    if mode is None:
        raise ConfigError(
            f"metric of the sweep = {metric!r}: it isn't known whether less or more is better: set "
            "mode to min or max"
        )
    space = replace(
        space,
        metric=metric,
        mode=config.mode or mode,
        horizon=config.horizon or space.horizon,
        seeds=tuple(config.seeds) if config.seeds else space.seeds,
    )
    _check_keys(space)
    return space


def find_space(space: str) -> Path:
    """The file for a path or a shipped name.

    Raises:
        ConfigError: if there is no such file, naming the most similar shipped name.
    """
    if is_file(space):
        if Path(space).is_file():
            return Path(space)
        raise ConfigError(f"space = '{space}': there is no such file; correct the path")
    folders = [Path("tune_spaces"), SHIPPED]
    for folder in folders:
        if (folder / f"{space}.py").is_file():
            return folder / f"{space}.py"
    names = sorted({path.stem for folder in folders for path in folder.glob("*.py")})
    raise ConfigError(f"space = '{space}': no such file in tune_spaces/{_nearest(space, names)}")


def load_space(path: Path) -> Space:
    """Read a space file by running it.

    Raises:
        ConfigError: naming file, line and remedy.
    """
    lines = _lines(path)
    module = _run(path)
    space = Space(path, (module.__doc__ or "").strip(), {}, lines=lines)
    return replace(
        space,
        values=_values(space, module),
        metric=_metric(space, module),
        mode=_mode(space, module),
        horizon=_horizon(space, module),
        seeds=_seeds(space, module),
    )


# The file.


def _lines(path: Path) -> dict[str, int]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from None
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid Python: {error.msg}") from None
    found: dict[str, int] = {}
    for name, line in _places(tree):
        found.setdefault(name, line)
    return found


def _places(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names assigned at the top level, then the keys of mappings and of ``space["key"] =``."""
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        for target in targets:
            if isinstance(target, ast.Name) and target.id in NAMES:
                yield target.id, statement.lineno
    for node in ast.walk(tree):
        keys = node.keys if isinstance(node, ast.Dict) else []
        for key in [*keys, node.slice] if isinstance(node, ast.Subscript) else keys:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value, key.lineno


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"manta_space_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: a space is a Python file; give a file whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except MantaError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f.lineno for f in reversed(frames) if Path(f.filename) == path), None)
        where = f"{path}:{line}" if line else str(path)
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error
    return module


# What the file declares.


def _values(space: Space, module: ModuleType) -> dict[str, Any]:
    values = getattr(module, "space", None)
    if not isinstance(values, dict):
        has = f"is {type(values).__name__}" if hasattr(module, "space") else "is missing"
        raise ConfigError(
            f"{space.where('space')}: 'space' {has}; it must be a mapping of dotted keys of the "
            "run config to samplers, such as {'schedule.lr.peak': tune.loguniform(1e-4, 1e-2)}"
        )
    for key, value in values.items():
        if not isinstance(key, str) or not all(key.split(".")):
            raise ConfigError(f"{space.where('space')}: {key!r} is no key; write it as dotted.key")
        check_value(value, f"{space.where(key)}: {key}")
    return dict(values)


def _metric(space: Space, module: ModuleType) -> str:
    metric = getattr(module, "metric", space.metric)
    _check_metric(metric, f"{space.where('metric')}: metric")
    return str(metric)


def _check_metric(metric: Any, where: str) -> None:
    if better(str(metric)) is None and not of_evaluator(str(metric)):
        raise ConfigError(
            f"{where} = {metric!r}: unknown metric{_nearest(str(metric), COMPARABLE)}"
        )


def _mode(space: Space, module: ModuleType) -> Literal["min", "max"]:
    mode = getattr(module, "mode", better(_metric(space, module)))
    if mode == "min":
        return "min"
    if mode == "max":
        return "max"
    raise ConfigError(f"{space.where('mode')}: mode = {mode!r}: write 'min' or 'max'")


def _horizon(space: Space, module: ModuleType) -> int | None:
    horizon = getattr(module, "horizon", None)
    if horizon is None:
        return None
    try:
        tokens = parse_tokens(horizon)
    except ValueError as error:
        raise ConfigError(f"{space.where('horizon')}: horizon = {horizon!r}: {error}") from None
    if tokens == 0:
        raise ConfigError(f"{space.where('horizon')}: horizon = 0: give at least one token")
    return tokens


def _seeds(space: Space, module: ModuleType) -> tuple[int, ...] | None:
    seeds = getattr(module, "seeds", None)
    if seeds is None:
        return None
    whole = isinstance(seeds, list | tuple | range) and all(type(seed) is int for seed in seeds)
    if not whole or not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"{space.where('seeds')}: seeds = {seeds!r}: give a list of different whole numbers, 0 "
            "or greater, such as [0, 1, 2]"
        )
    return tuple(seeds)


def _check_keys(space: Space) -> None:
    """Refuse keys that the sweep itself sets."""
    for key in space.values:
        if key in IDENTITY:
            raise ConfigError(
                f"{space.where(key)}: {key}: the sweep names its trials; remove this key"
            )
    for key, name in (("run.seed", "seeds"), ("schedule.horizon", "horizon")):
        if key in space.values and getattr(space, name) is not None:
            raise ConfigError(
                f"{space.where(key)}: {key} is set twice, here and by '{name}'; remove one"
            )


def _nearest(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; give one of {', '.join(names)}"
