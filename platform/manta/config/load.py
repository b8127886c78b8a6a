"""YAML file + dotted overrides → a typed config, or one error that names every mistake."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import yaml
from pydantic import ValidationError

from manta.config.credentials import REMEDY, places_of_credentials, without_credentials
from manta.config.document import Document, KeyPath, RefusedError, parse, parse_value, unparse
from manta.config.errors import ConfigError
from manta.config.evaluation import EvaluationConfig
from manta.config.evaluation_files import with_files
from manta.config.kinds import kind_of, mistaken
from manta.config.mistakes import explain, show
from manta.config.own_code import KEYS, is_own, with_code
from manta.config.run import RunConfig
from manta.config.section import Section

C = TypeVar("C", bound=Section)
COMMAND_LINE = "command line"
EVALUATORS_CONFIG = "eval.evaluators.config"
# pydantic's names for the branches of a union: in an error's `loc`, but in no config key.
BRANCHES = {"number", "shorthand", "segments"}
# pydantic's error types for a value that should have been text.
WANTS_TEXT = {"string_type", "literal_error"}


@dataclass(frozen=True)
class Written:
    """A config as it was written: plain data, unchecked, and where each value comes from.

    Attributes:
        data: the file's content with all changes applied.
        source: the file's path, for messages.
        lines: path of each key → its line in the file.
        texts: path of each unquoted value → the text as written.
        changed: path of each key whose value was replaced → where the new value comes from.
    """

    data: dict[str, Any]
    source: str
    lines: dict[KeyPath, int]
    texts: dict[KeyPath, str]
    changed: dict[KeyPath, str]


class Readable(Protocol):
    """A config file that is not on this machine, such as one in an object store."""

    def read_text(self, encoding: str) -> str:
        """The file's text; raises OSError."""
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
    """The file at `path` with `overrides`, unchecked; messages call the overrides `origin`."""
    try:
        text = (Path(path) if isinstance(path, str) else path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from None
    document = _parse(text, str(path))
    data, texts, changed = document.data, dict(document.texts), {}
    for override in overrides:
        where = f"{origin}: '{without_credentials(override)}'"
        dotted, value = _override(override, where)
        replaced = _put(data, dotted, value.data, where)
        changed[replaced] = origin
        texts = _without(texts, replaced)
        texts |= {(*_split(dotted), *below): text for below, text in value.texts.items()}
    return Written(data, str(path), document.lines, texts, changed)


def given(data: Mapping[str, Any], source: str) -> Written:
    """A config that isn't in a file; messages call it `source`."""
    return Written(copy.deepcopy(dict(data)), source, {}, {}, {})


def values_of(overrides: Iterable[str]) -> dict[str, Any]:
    """The value of each dotted key of `overrides`.

    Raises:
        ConfigError: if one is no ``dotted.key=value``.
    """
    found = {}
    for override in overrides:
        where = f"{COMMAND_LINE}: '{without_credentials(override)}'"
        dotted, value = _override(override, where)
        found[dotted] = value.data
    return found


def change(written: Written, values: Mapping[str, Any], origins: Mapping[str, str]) -> Written:
    """A copy of `written` with `values` set, by dotted key; whole sections before their keys.

    Args:
        origins: dotted key → where its value comes from, for messages.

    Raises:
        ConfigError: if a key names an item that a list doesn't have.
    """
    data, changed = copy.deepcopy(written.data), dict(written.changed)
    texts = written.texts
    for dotted in sorted(values, key=lambda key: key.count(".")):
        origin = origins[dotted]
        path = _put(data, dotted, copy.deepcopy(values[dotted]), f"{origin}: '{dotted}'")
        changed.pop(path, None)  # moves the path to the end, since the last change counts
        changed[path] = origin
        texts = _without(texts, path)
    return replace(written, data=data, texts=texts, changed=changed)


def dump(config: Section) -> str:
    """The config as YAML that `load` reads back to an equal config."""
    return unparse(config.model_dump(mode="json"))


def _parse(text: str, source: str) -> Document:
    try:
        document = parse(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(document.data, dict):
        raise ConfigError(
            f"{source}: a config must be a mapping of sections, not {show(document.data)}"
        )
    return document


def _override(override: str, where: str) -> tuple[str, Document]:
    """Key and value of ``dotted.key=value``."""
    dotted, separator, text = override.partition("=")
    if not separator or not dotted or any(not part for part in dotted.split(".")):
        raise ConfigError(
            f"{where}: write an override as dotted.key=value, such as train.seq_len=512; if the "
            "value has spaces, put the whole override in quotes"
        )
    try:
        return dotted, parse_value(text)
    except RefusedError as error:
        raise ConfigError(f"{where}: {error.problem}") from None


def _put(data: dict[str, Any], dotted: str, value: Any, where: str) -> KeyPath:
    """Set one dotted key in `data`; returns the path of what was replaced."""
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


def _without(texts: dict[KeyPath, str], replaced: KeyPath) -> dict[KeyPath, str]:
    """`texts` without the entries at and below the path `replaced`."""
    return {path: text for path, text in texts.items() if path[: len(replaced)] != replaced}


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
            f"{where}: '{part}' must be an index of a list with {len(items)} items: 0 to "
            f"{len(items) - 1}"
        )


def build(written: Written, kind: type[C]) -> C:
    """The typed config.

    Raises:
        ConfigError: naming file and line, or where else a value comes from; key, value, remedy.
    """
    return _complete(_checked(written, kind), written)


def _checked(written: Written, kind: type[C]) -> C:
    """The typed config, with the files that it names as they were written."""
    _refuse_credentials(written)
    _refuse_another_kind(written, kind)
    try:
        return kind.model_validate(written.data)
    except ValidationError as error:
        found = [(_path(item), item) for item in error.errors(include_url=False)]
    meant = {
        path
        for path, item in found
        if item["type"] in WANTS_TEXT and item["input"] is not None and path in written.texts
    }
    if meant:
        return _checked(_as_text(written, meant), kind)
    messages = []
    for path, item in found:
        mistake = explain(kind, path, item, written.texts.get(path), written.data)
        messages.append(f"{_where(path, written)}: {mistake}")
    raise ConfigError("\n".join(messages))


def _complete(config: C, written: Written) -> C:
    """The config with the texts, or the absolute paths, of the files that it names."""

    def folder(key: str) -> Path:
        return folder_of(written, key)

    def said_at(key: str) -> str:
        return where(written, key)

    if isinstance(config, RunConfig):
        return cast(C, with_evaluators(with_code(config, folder, said_at), written))
    if isinstance(config, EvaluationConfig):
        return cast(C, with_files(config, folder, said_at))
    return config


def with_evaluators(config: RunConfig, written: Written | None = None) -> RunConfig:
    """A run's config with the whole config of its evaluators, in place of its path.

    Paths in it are absolute then. Whether its data is there is checked before a run starts.

    Args:
        config: a run's config.
        written: the config as it was written, for messages; by default no file.

    Raises:
        ConfigError: naming the mistake in it, and its place.
    """
    section, key = config.eval.evaluators, EVALUATORS_CONFIG
    if section is None:
        return config
    written = given({}, "config") if written is None else written
    if isinstance(section.config, str):
        path = folder_of(written, key) / Path(section.config).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"{where(written, key)}: {key} = '{section.config}': no such file "
                f"({path.absolute()}); give its path relative to the config file"
            )
        inner = read(path)
    else:
        inner = _inside(written, key, section.config)
    try:
        found = with_files(
            _checked(inner, EvaluationConfig),
            lambda key: folder_of(inner, key),
            lambda key: where(inner, key),
            must_exist=False,
        )
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None
    plain = found.model_dump(mode="json", exclude_defaults=True)
    if plain == section.config:
        return config
    evaluators = section.model_copy(update={"config": plain})
    changed = config.eval.model_copy(update={"evaluators": evaluators})
    return config.model_copy(update={"eval": changed})


def _inside(written: Written, dotted: str, data: Mapping[str, Any]) -> Written:
    """The config that is written inside another one, at a key."""
    path = tuple(_split(dotted))

    def below(places: Mapping[KeyPath, Any]) -> dict[KeyPath, Any]:
        there = {at[len(path) :]: found for at, found in places.items() if at[: len(path)] == path}
        return {at: found for at, found in there.items() if at}

    changed = below(written.changed)
    for given, origin in written.changed.items():
        if path[: len(given)] == given:  # all of it was given elsewhere
            changed |= {(name,): origin for name in data}
    return Written(
        copy.deepcopy(dict(data)),
        written.source,
        below(written.lines),
        below(written.texts),
        changed,
    )


def own_files(written: Written) -> dict[str, Path]:
    """Paths of the user's Python files that a run's config names, by key."""
    found = {}
    for key in KEYS:
        value: Any = written.data
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, str) and is_own(value):
            found[key] = folder_of(written, key) / value.rpartition(":")[0]
    return found


def folder_of(written: Written, dotted: str) -> Path:
    """The folder that a relative path at a key starts from.

    It is the config file's folder, or the current one for a value from elsewhere.
    """
    path = tuple(_split(dotted))
    beside = any(path[: len(given)] == given for given in written.changed)
    return Path() if beside else Path(written.source).parent


def _refuse_another_kind(written: Written, asked: type[Section]) -> None:
    """Refuse a file of another kind of config, judged without overrides."""
    kind = kind_of(asked.model_fields)
    keys = {str(path[0]) for path in written.lines if len(path) == 1}
    if kind is not None and (other := mistaken(kind, keys, written.source)):
        raise ConfigError(other)


def _path(item: Any) -> KeyPath:
    return tuple(part for part in item["loc"] if part not in BRANCHES)


def _as_text(written: Written, paths: Iterable[KeyPath]) -> Written:
    """A copy with the text as written at `paths`, not YAML's reading: `007` can be a name."""
    data, texts = copy.deepcopy(written.data), dict(written.texts)
    for path in paths:
        here: Any = data
        for part in path[:-1]:
            here = here[part]
        here[path[-1]] = texts.pop(path)
    return replace(written, data=data, texts=texts)


def _refuse_credentials(written: Written) -> None:
    """Refuse credentials, before any other check of values, as error messages show values."""
    messages = [
        f"{_where(path, written)}: {'.'.join(map(str, path))}: {REMEDY}"
        for path in places_of_credentials(written.data)
    ]
    if messages:
        raise ConfigError("\n".join(messages))


def where(written: Written, dotted: str) -> str:
    """Where the value of a key comes from, for messages, such as ``run.yaml:7``."""
    return _where(tuple(_split(dotted)), written)


def _where(path: KeyPath, written: Written) -> str:
    """Where the value at `path` comes from: a line of the file, a later change, or both."""
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
