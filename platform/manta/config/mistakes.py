"""Messages for mistakes in a config: the key, what was written there, and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from manta.config.credentials import without_credentials
from manta.config.document import KeyPath
from manta.config.elsewhere import elsewhere
from manta.config.kinds import as_overrides
from manta.config.run import RunConfig

# Stands for a name that users give, where the keys of a section are such names.
NAME = "NAME"


def explain(
    kind: type[BaseModel],
    path: KeyPath,
    item: Any,
    written: str | None,
    data: Mapping[str, Any],
) -> str:
    """What is wrong with the value at `path`, and what to do.

    Args:
        kind: the config's type.
        path: path of the value, without pydantic's names for branches of a union.
        item: pydantic's description of the error.
        written: the text as written, where YAML reads it as something else.
        data: the whole config, as plain data.
    """
    dotted = _dotted(path)
    shown = _shown(item["input"], written)
    if item["type"] == "extra_forbidden":
        return f"unknown key '{dotted}'{_remedy(kind, path, item['input'], data)}"
    if item["type"] == "missing":
        return f"key '{dotted}' is missing{_describe(kind, path)}"
    if item["type"] == "invalid_key" or path[-1:] == ("[key]",):
        parent = ".".join(map(str, path[:-1] if item["type"] == "invalid_key" else path[:-2]))
        return f"key {item['input']!r} in {parent or 'the config'}: a key must be text; quote it"
    if item["type"] in ("model_type", "dict_type"):
        return f"{dotted} = {shown}: this is a section: give its keys{_below(kind, dotted)}"
    if item["type"] in ("list_type", "tuple_type"):
        written = shown if isinstance(item["input"], dict) or written is None else written
        return f"{dotted} = {shown}: give a list: [{written}]"
    if item["type"] == "string_pattern_mismatch":
        return f"{dotted} = {shown}: {_name_rule(item['ctx']['pattern'])}"
    message: str = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not dotted:
        return message
    if isinstance(item["input"], dict | list | tuple) and not item["type"].endswith("_type"):
        return f"{dotted}: {message}"
    return f"{dotted} = {shown}: {message}"


def _below(kind: type[BaseModel], dotted: str) -> str:
    """The keys of a section, or nothing if it isn't known."""
    start = f"{dotted}."
    names = [
        key.removeprefix(start).partition(".")[0] for key in keys(kind) if key.startswith(start)
    ]
    return f": {', '.join(dict.fromkeys(names))}" if names else ""


def _name_rule(pattern: str) -> str:
    """The rule for names, in words; the patterns differ in their length only."""
    most = re.search(r"\{0,(\d+)\}", pattern)
    length = f" up to {int(most[1]) + 1} of them," if most else ""
    return (
        f"a name has letters, digits, '.', '_' and '-' only,{length} and begins with a letter or "
        "a digit"
    )


def in_a_line(error: BaseException) -> str:
    """Why a file that Manta wrote can't be read, in one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    first, *others = error.errors(include_url=False)
    message = first["msg"].removeprefix("Value error, ").removeprefix("Invalid JSON: ")
    more = f", and {len(others)} more like it" if others else ""
    if first["type"] == "json_invalid":
        return f"not valid JSON ({message})"
    if first["type"] == "missing":
        return f"'{_dotted(first['loc'])}' is missing{more}"
    place = f"'{_dotted(first['loc'])}': " if first["loc"] else ""
    return f"{place}{message[:1].lower()}{message[1:]}{more}"


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


def show(value: Any) -> str:
    """A value in a message."""
    return "nothing" if value is None else without_credentials(repr(value))


def _shown(value: Any, written: str | None) -> str:
    """A value as it was written in the file: `yes`, not `True`."""
    if written is None or value is None or isinstance(value, str):
        return show(value)
    return without_credentials(written)


def keys(kind: type[BaseModel]) -> list[str]:
    """Every dotted key that a config of `kind` may have, in order."""
    found = []
    for name, field in kind.model_fields.items():
        shown = field.alias or name
        nested = [t for t in _types(field.annotation) if _is_section(t)]
        within = f"{shown}.{NAME}" if get_origin(field.annotation) is dict else shown
        below = list(dict.fromkeys(f"{within}.{key}" for t in nested for key in keys(t)))
        found.extend(below or [shown])
    return found


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)


def _is_section(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def _remedy(kind: type[BaseModel], path: KeyPath, value: Any, data: Mapping[str, Any]) -> str:
    """What to do about an unknown key, as the end of a message."""
    if "overrides" in kind.model_fields and path[0] in RunConfig.model_fields:
        given = data.get("overrides")
        kept = [text for text in given if isinstance(text, str)] if isinstance(given, list) else []
        return f"; {as_overrides(str(path[0]), value, kept)}"
    if known := elsewhere(kind.model_fields.keys(), path):
        return f": {known}"
    return _suggest(kind, path)


def _suggest(kind: type[BaseModel], path: KeyPath) -> str:
    """The known key that an unknown one was most likely meant to be, or those valid there."""
    given = ".".join(str(part) for part in path if not isinstance(part, int))
    parent, _, leaf = given.rpartition(".")
    leaves = [_with_names(key, given) for key in keys(kind)]
    sections = {
        key.rsplit(".", depth)[0] for key in leaves for depth in range(1, key.count(".") + 1)
    }
    valid = [*leaves, *sorted(sections)]
    siblings = [key for key in valid if key.rpartition(".")[0] == parent]
    # Compare names without their sections: a shared section makes unrelated keys look alike.
    names = {key.rpartition(".")[2]: key for key in siblings}
    # First the right name in the wrong section, then a typo.
    close = sorted(
        (key for key in valid if key.rpartition(".")[2] == leaf), key=lambda key: key.count(".")
    ) or [names[name] for name in difflib.get_close_matches(leaf, names, n=1)]
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid here: {', '.join(sorted(names))}"


def _with_names(key: str, given: str) -> str:
    """A key with the names that a given one has where the two agree up to them."""
    parts, names = key.split("."), given.split(".")
    for place, part in enumerate(parts[: len(names)]):
        if part == NAME:
            parts[place] = names[place]
        elif part != names[place]:
            break
    return ".".join(parts)


def _describe(kind: type[BaseModel], path: KeyPath) -> str:
    """The description of a missing key, as the end of a message."""
    model: Any = kind
    field = None
    for part in path:
        fields = {f.alias or name: f for name, f in getattr(model, "model_fields", {}).items()}
        field = fields.get(str(part))
        model = field.annotation if field else None
    return f": {field.description}" if field and field.description else ""
