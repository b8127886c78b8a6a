"""YAML file + dotted overrides → a typed config, or one error that says it all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from manta.config.errors import ConfigError
from manta.config.model import Section

C = TypeVar("C", bound=Section)
Path_ = tuple[str | int, ...]
COMMAND_LINE = "command line"
# pydantic's names of the branches of a union: part of an error's place, not of a key.
BRANCHES = {"number", "shorthand", "segments"}


class _StrictLoader(yaml.SafeLoader):
    """Safe loader that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key}' is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: str | Path, kind: type[C], overrides: Iterable[str] = ()) -> C:
    """Read the config file at `path`, apply `overrides` and check everything.

    Args:
        path: YAML file.
        kind: the config type to build.
        overrides: ``dotted.key=value`` strings; the value is read as YAML, a number in
            the key is an index of a list.

    Raises:
        ConfigError: naming file (and line) or the command line, key, value and remedy.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from None
    data, lines = _parse(text, str(path))
    overridden = set()
    for override in overrides:
        overridden.add(_apply(data, override))
    return _validate(data, kind, str(path), lines, overridden)


def dump(config: Section) -> str:
    """The config as YAML that `load` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _parse(text: str, source: str) -> tuple[dict[str, Any], dict[Path_, int]]:
    try:
        # A subclass of SafeLoader: it builds plain data only.
        data = yaml.load(text, _StrictLoader)  # noqa: S506
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: a config is a mapping of sections, not {_show(data)}")
    return data, dict(_lines(root, ()))


def _lines(node: yaml.Node | None, at: Path_) -> Iterator[tuple[Path_, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*at, key.value), key.start_mark.line + 1
            yield from _lines(value, (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _lines(value, (*at, index))


def _apply(data: dict[str, Any], override: str) -> Path_:
    """Set one dotted key in `data`; returns its path."""
    dotted, separator, text = override.partition("=")
    if not separator or not dotted or any(not part for part in dotted.split(".")):
        raise ConfigError(
            f"{COMMAND_LINE}: '{override}': write an override as dotted.key=value, "
            "such as train.seq_len=512"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    *parents, last = path = _split(dotted)
    here: Any = data
    for depth, part in enumerate(parents):
        child = _child(here, part, override)
        if not isinstance(child, dict | list):
            child = {}
            _set(here, part, child, ".".join(map(str, path[: depth + 1])), override)
        here = child
    _set(here, last, value, dotted, override)
    return tuple(path)


def _split(dotted: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in dotted.split(".")]


def _child(here: Any, part: str | int, override: str) -> Any:
    if isinstance(here, list):
        _check_index(here, part, override)
        return here[part]  # type: ignore[index]
    return here.get(part)


def _set(here: Any, part: str | int, value: Any, dotted: str, override: str) -> None:
    if isinstance(here, list):
        _check_index(here, part, override)
        here[part] = value  # type: ignore[index]
    elif isinstance(part, int):
        raise ConfigError(f"{COMMAND_LINE}: '{override}': {dotted} is not an item of a list")
    else:
        here[part] = value


def _check_index(items: list[Any], part: str | int, override: str) -> None:
    if not isinstance(part, int) or part >= len(items):
        raise ConfigError(
            f"{COMMAND_LINE}: '{override}': '{part}' must be an index of a list of "
            f"{len(items)}: 0 to {len(items) - 1}"
        )


def _validate(
    data: dict[str, Any],
    kind: type[C],
    source: str,
    lines: dict[Path_, int],
    overridden: set[Path_],
) -> C:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        messages = []
        for item in error.errors(include_url=False):
            path = tuple(part for part in item["loc"] if part not in BRANCHES)
            if any(path[: len(given)] == given for given in overridden):
                where = COMMAND_LINE
            else:
                line = lines.get(path) or lines.get(path[:-1])
                where = f"{source}:{line}" if line else source
            messages.append(f"{where}: {_explain(kind, path, item)}")
        raise ConfigError("\n".join(messages)) from None


def _explain(kind: type[BaseModel], path: Path_, item: Any) -> str:
    dotted = ".".join(map(str, path))
    if item["type"] == "extra_forbidden":
        return f"unknown key '{dotted}'{_suggest(kind, path)}"
    if item["type"] == "missing":
        return f"key '{dotted}' is missing{_describe(kind, path)}"
    message = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not dotted:
        return message
    if isinstance(item["input"], dict | list | tuple):
        return f"{dotted}: {message}"
    return f"{dotted} = {_show(item['input'])}: {message}"


def _show(value: Any) -> str:
    return "nothing" if value is None else repr(value)


def keys(kind: type[BaseModel]) -> list[str]:
    """Every dotted key that a config of `kind` may have, in order."""
    found = []
    for name, field in kind.model_fields.items():
        shown = field.alias or name
        nested = [t for t in _types(field.annotation) if _is_section(t)]
        below = list(dict.fromkeys(f"{shown}.{key}" for t in nested for key in keys(t)))
        found.extend(below or [shown])
    return found


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)


def _is_section(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _suggest(kind: type[BaseModel], path: Path_) -> str:
    """What the writer of an unknown key most likely meant."""
    given = ".".join(str(part) for part in path if not isinstance(part, int))
    parent, _, leaf = given.rpartition(".")
    leaves = keys(kind)
    sections = {
        key.rsplit(".", depth)[0] for key in leaves for depth in range(1, key.count(".") + 1)
    }
    valid = [*leaves, *sorted(sections)]
    siblings = [key for key in valid if key.rpartition(".")[0] == parent]
    # A slip of the finger first, then the right name in the wrong section.
    close = (
        difflib.get_close_matches(given, siblings, n=1, cutoff=0.8)
        or [key for key in valid if key.rpartition(".")[2] == leaf]
        or difflib.get_close_matches(leaf, [key.rpartition(".")[2] for key in siblings], n=1)
    )
    if close:
        name = close[0] if "." in close[0] or not parent else f"{parent}.{close[0]}"
        return f"; did you mean '{name}'?"
    return f"; valid here: {', '.join(sorted(key.rpartition('.')[2] for key in siblings))}"


def _describe(kind: type[BaseModel], path: Path_) -> str:
    """The description of a key, for the one who left it out."""
    model: Any = kind
    field = None
    for part in path:
        fields = {f.alias or name: f for name, f in getattr(model, "model_fields", {}).items()}
        field = fields.get(str(part))
        model = field.annotation if field else None
    return f": {field.description}" if field and field.description else ""
