"""YAML file + dotted overrides → a typed config, or one error that says it all."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from manta.config.credentials import REMEDY, places_of_credentials, without_credentials
from manta.config.errors import ConfigError
from manta.config.model import Section

C = TypeVar("C", bound=Section)
Path_ = tuple[str | int, ...]
COMMAND_LINE = "command line"
# pydantic's names of the branches of a union: part of an error's place, not of a key.
BRANCHES = {"number", "shorthand", "segments"}


class _Loader(yaml.SafeLoader):
    """Safe loader that reads numbers as people do."""


class _PlainDumper(yaml.SafeDumper):
    """Safe dumper that puts in quotes what the loader would take for a number."""


class _RefusedError(yaml.MarkedYAMLError):
    """What YAML allows and a config does not."""


# YAML 1.1 reads 3e-4, without a point, as text. It is a number to everyone else.
for _end in (_Loader, _PlainDumper):
    _end.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+\Z"),
        list("-+0123456789"),
    )


@dataclass(frozen=True)
class Written:
    """A config as its writers left it: plain data, unchecked, and who wrote what.

    Attributes:
        data: what the file says with all changes applied.
        source: the file.
        lines: the line of the file on which each key stands.
        changed: who replaced which keys after that, by path.
    """

    data: dict[str, Any]
    source: str
    lines: dict[Path_, int]
    changed: dict[Path_, str]


class Readable(Protocol):
    """A config file that is not a path of this machine."""

    def read_text(self, encoding: str) -> str:
        """What is in it; raises OSError."""
        ...


def load(path: str | Path | Readable, kind: type[C], overrides: Iterable[str] = ()) -> C:
    """Read the config file at `path`, apply `overrides` and check everything.

    Args:
        path: YAML file.
        kind: the config type to build.
        overrides: ``dotted.key=value`` strings; the value is read as YAML, a number in
            the key is an index of a list.

    Raises:
        ConfigError: naming file (and line) or the command line, key, value and remedy.
    """
    return build(read(path, overrides), kind)


def read(
    path: str | Path | Readable, overrides: Iterable[str] = (), origin: str = COMMAND_LINE
) -> Written:
    """The file at `path` with `overrides`, whose writer is `origin`; else as `load`."""
    try:
        text = (Path(path) if isinstance(path, str) else path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from None
    data, lines = _parse(text, str(path))
    changed = {}
    for override in overrides:
        where = f"{origin}: '{without_credentials(override)}'"
        dotted, value = _override(override, where)
        changed[_put(data, dotted, value, where)] = origin
    return Written(data, str(path), lines, changed)


def change(written: Written, values: Mapping[str, Any], origins: Mapping[str, str]) -> Written:
    """A copy of `written` with `values`, by dotted key; whole sections before their keys.

    Args:
        origins: who wrote each value, for messages.

    Raises:
        ConfigError: when a key can't be reached.
    """
    data, changed = copy.deepcopy(written.data), dict(written.changed)
    for dotted in sorted(values, key=lambda key: key.count(".")):
        origin = origins[dotted]
        path = _put(data, dotted, copy.deepcopy(values[dotted]), f"{origin}: '{dotted}'")
        changed.pop(path, None)  # the newest writer of a path counts, so it goes last
        changed[path] = origin
    return replace(written, data=data, changed=changed)


def dump(config: Section) -> str:
    """The config as YAML that `load` reads back to an equal config."""
    data = config.model_dump(mode="json")
    text: str = yaml.dump(data, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)
    return text


def _parse(text: str, source: str) -> tuple[dict[str, Any], dict[Path_, int]]:
    try:
        data, lines = _read(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: a config is a mapping of sections, not {_show(data)}")
    return data, lines


def _read(text: str) -> tuple[Any, dict[Path_, int]]:
    """Plain data from YAML, and the line on which each key stands.

    Raises:
        yaml.YAMLError: if it is none; _RefusedError if it is, and no config can be so.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, {}
        _refuse(root)
        data = loader.construct_document(root)
        # Constructing has put merged keys (<<) where they belong, with their own lines.
        return _unshared(data), dict(_lines(root, ()))
    except RecursionError:
        raise _RefusedError(problem="an anchor that contains itself") from None
    except ValueError as error:  # such as a date in month 13
        raise yaml.MarkedYAMLError(problem=str(error)) from None
    finally:
        loader.dispose()


def _refuse(node: yaml.Node) -> None:
    """Refuse keys that are given twice, where YAML would keep the last, or aren't words."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse(item)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _RefusedError(problem="a key is a word", problem_mark=key.start_mark)
            if key.value in seen:
                problem = f"key '{key.value}' is given twice"
                raise _RefusedError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
            _refuse(value)


def _unshared(value: Any) -> Any:
    """A copy in which aliases are apart, so that an override changes one place only."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _lines(node: yaml.Node | None, at: Path_) -> Iterator[tuple[Path_, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*at, key.value), key.start_mark.line + 1
            yield from _lines(value, (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _lines(value, (*at, index))


def _override(override: str, where: str) -> tuple[str, Any]:
    """Key and value of ``dotted.key=value``; the value is YAML, or text if it is none."""
    dotted, separator, text = override.partition("=")
    if not separator or not dotted or any(not part for part in dotted.split(".")):
        raise ConfigError(
            f"{where}: write an override as dotted.key=value, such as train.seq_len=512"
        )
    try:
        return dotted, _read(text)[0]
    except _RefusedError as error:
        raise ConfigError(f"{where}: {error.problem}") from None
    except yaml.YAMLError:
        return dotted, text


def _put(data: dict[str, Any], dotted: str, value: Any, where: str) -> Path_:
    """Set one dotted key in `data`; returns the path of all that it replaced."""
    *parents, last = path = _split(dotted)
    replaced = path
    here: Any = data
    for depth, part in enumerate(parents, start=1):
        child = _child(here, part, where)
        if not isinstance(child, dict | list):
            child = {}
            _set(here, part, child, ".".join(map(str, path[:depth])), where)
            replaced = min(replaced, path[:depth], key=len)
        here = child
    _set(here, last, value, dotted, where)
    return tuple(replaced)


def _split(dotted: str) -> list[str | int]:
    return [int(p) if p.isascii() and p.isdigit() else p for p in dotted.split(".")]


def _child(here: Any, part: str | int, where: str) -> Any:
    if isinstance(here, list):
        _check_index(here, part, where)
        return here[part]  # type: ignore[index]
    return here.get(part)


def _set(here: Any, part: str | int, value: Any, dotted: str, where: str) -> None:
    if isinstance(here, list):
        _check_index(here, part, where)
        here[part] = value  # type: ignore[index]
    elif isinstance(part, int):
        raise ConfigError(f"{where}: {dotted} is not an item of a list")
    else:
        here[part] = value


def _check_index(items: list[Any], part: str | int, where: str) -> None:
    if not isinstance(part, int) or part >= len(items):
        raise ConfigError(
            f"{where}: '{part}' must be an index of a list of {len(items)}: 0 to {len(items) - 1}"
        )


def build(written: Written, kind: type[C]) -> C:
    """The typed config.

    Raises:
        ConfigError: naming file (and line) or another writer, key, value and remedy.
    """
    _refuse_credentials(written)
    try:
        return kind.model_validate(written.data)
    except ValidationError as error:
        messages = []
        for item in error.errors(include_url=False):
            path = tuple(part for part in item["loc"] if part not in BRANCHES)
            messages.append(f"{_where(path, written)}: {_explain(kind, path, item)}")
        raise ConfigError("\n".join(messages)) from None


def _refuse_credentials(written: Written) -> None:
    """Before anything else looks at a value: messages repeat values."""
    messages = [
        f"{_where(path, written)}: {'.'.join(map(str, path))}: {REMEDY}"
        for path in places_of_credentials(written.data)
    ]
    if messages:
        raise ConfigError("\n".join(messages))


def where(written: Written, dotted: str) -> str:
    """Where the value of a key was written, for messages: ``run.yaml:7`` or another writer."""
    return _where(tuple(_split(dotted)), written)


def _where(path: Path_, written: Written) -> str:
    """Where the value at `path` was written: a line of the file, by another writer, or both."""
    newest = list(reversed(written.changed.items()))
    for given, origin in newest:
        if path[: len(given)] == given:
            return origin
    nearest = path
    while nearest and nearest not in written.lines:
        nearest = nearest[:-1]
    where = f"{written.source}:{written.lines[nearest]}" if nearest else written.source
    for given, origin in newest:
        if given[: len(path)] == path:
            return f"{where} with {'the ' if origin == COMMAND_LINE else ''}{origin}"
    return where


def _explain(kind: type[BaseModel], path: Path_, item: Any) -> str:
    dotted = ".".join(map(str, path))
    if item["type"] == "extra_forbidden":
        return f"unknown key '{dotted}'{_suggest(kind, path)}"
    if item["type"] == "missing":
        return f"key '{dotted}' is missing{_describe(kind, path)}"
    if item["type"] == "invalid_key" or path[-1:] == ("[key]",):
        parent = ".".join(map(str, path[:-1] if item["type"] == "invalid_key" else path[:-2]))
        return f"key {item['input']!r} in {parent or 'the config'}: a key is text; put it in quotes"
    if item["type"] in ("model_type", "dict_type"):
        return f"{dotted} = {_show(item['input'])}: this is a section, with keys of its own"
    message: str = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not dotted:
        return message
    if isinstance(item["input"], dict | list | tuple) and not item["type"].endswith("_type"):
        return f"{dotted}: {message}"
    return f"{dotted} = {_show(item['input'])}: {message}"


def _show(value: Any) -> str:
    return "nothing" if value is None else without_credentials(repr(value))


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
    # Names are compared without their sections, which would make any two of one look alike.
    names = {key.rpartition(".")[2]: key for key in siblings}
    # The right name in the wrong section first, then a slip of the finger.
    close = sorted(
        (key for key in valid if key.rpartition(".")[2] == leaf), key=lambda key: key.count(".")
    ) or [names[name] for name in difflib.get_close_matches(leaf, names, n=1)]
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid here: {', '.join(sorted(names))}"


def _describe(kind: type[BaseModel], path: Path_) -> str:
    """The description of a key, for the one who left it out."""
    model: Any = kind
    field = None
    for part in path:
        fields = {f.alias or name: f for name, f in getattr(model, "model_fields", {}).items()}
        field = fields.get(str(part))
        model = field.annotation if field else None
    return f": {field.description}" if field and field.description else ""
