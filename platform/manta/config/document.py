"""YAML as configs use it: plain data, with the line and the written text of each value.

Numbers are those of YAML 1.2 (and may have ``_`` between digits): ``010`` is ten, ``0o17`` is
fifteen, ``1e-3`` needs no point, and neither ``1:30`` nor a date is a number. Keys are text.
The written text is kept because an unquoted word or number may be the value of a text key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]
TEXT = "tag:yaml.org,2002:str"
MERGE = "tag:yaml.org,2002:merge"
INT = "tag:yaml.org,2002:int"
FLOAT = "tag:yaml.org,2002:float"
# Tags that YAML 1.1 resolves too eagerly: ``010`` to eight, ``1:30`` to ninety.
NOT_YAML_1_2 = {INT, FLOAT, "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"}
NUMBERS = {
    INT: re.compile(r"(?:[-+]?[0-9][0-9_]*|0o[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*)\Z"),
    FLOAT: re.compile(
        r"(?:[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}
BASES = {"0o": 8, "0x": 16}
# Signs that libyaml takes in places where PyYAML does not. Few configs have one of them.
READ_DIFFERENTLY = re.compile(r"[\t!|>?]")


class RefusedError(yaml.MarkedYAMLError):
    """Valid YAML that a config may not contain, such as a key given twice."""


class _Loader(yaml.SafeLoader):
    """Safe loader whose numbers are those of YAML 1.2. Its errors say what is wrong and where."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same, nine times as fast where PyYAML was built with libyaml, whose errors say less."""


class _Dumper(yaml.SafeDumper):
    """Safe dumper that quotes any text that a YAML 1.1 or 1.2 reader would take for a number."""


def _whole_number(loader: Any, node: yaml.ScalarNode) -> int:
    """An integer: decimal unless it has a prefix of YAML 1.2 (``0o``, ``0x``)."""
    text = str(loader.construct_scalar(node)).replace("_", "")
    return int(text[2:], BASES[text[:2]]) if text[:2] in BASES else int(text)


for _loader in (_Loader, _FastLoader):
    _loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in NOT_YAML_1_2]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _loader.add_constructor(INT, _whole_number)
for _end in (_Loader, _FastLoader, _Dumper):
    for _tag, _pattern in NUMBERS.items():  # whole numbers first: they look like floats as well
        _end.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))


@dataclass(frozen=True)
class Document:
    """A YAML document.

    Attributes:
        data: the document as plain dicts, lists and scalars.
        lines: path of each key or item → its line number, from 1.
        texts: path of each unquoted value → the text as written.
    """

    data: Any
    lines: dict[KeyPath, int]
    texts: dict[KeyPath, str]


def parse(text: str) -> Document:
    """Read a document.

    Raises:
        yaml.YAMLError: if the text is not YAML; RefusedError if it is YAML that no config may be.
    """
    if not READ_DIFFERENTLY.search(text):
        with suppress(yaml.YAMLError):
            return _parse(_FastLoader(text))
    return _parse(_Loader(text))


def _parse(loader: Any) -> Document:
    try:
        root = loader.get_single_node()
        if root is None:
            return Document(None, {}, {})
        _check_keys(root)
        data = loader.construct_document(root)
        # construct_document has moved merged keys (<<) into place, with their own lines.
        places = list(_places(root, (), root.start_mark.line + 1))
    except RecursionError:
        raise RefusedError(problem="an anchor that contains itself") from None
    except ValueError as error:  # such as a number of ten thousand digits
        raise yaml.MarkedYAMLError(problem=str(error)) from None
    finally:
        loader.dispose()
    lines = {path: line for path, line, _ in places if path}
    texts = {path: node.value for path, _, node in places if _is_bare(node)}
    return Document(_unshared(data), lines, texts)


def parse_value(text: str) -> Document:
    """Read the value of an override: as YAML, or as plain text if it isn't YAML.

    Raises:
        RefusedError: as `parse`.
    """
    whole = text.strip()
    try:
        found = parse(text)
    except RefusedError:
        raise
    except yaml.YAMLError:
        return Document(whole, {}, {})
    if not whole:
        return found
    plain = not isinstance(found.data, dict | list) and whole[0] not in ("'", '"')
    if plain and found.texts.get(()) != whole:
        # On a command line `exp #3` is not `exp` with a comment, and `&x` is no anchor.
        return Document(whole, {}, {})
    return Document(found.data, found.lines, {**found.texts, (): whole})


def unparse(data: Any) -> str:
    """Plain data as YAML that `parse` reads back to the same."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _check_keys(node: yaml.Node) -> None:
    """Make keys text; refuse those given twice, where YAML would keep the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise RefusedError(problem="a key must be a word", problem_mark=key.start_mark)
            if key.value in seen:
                problem = f"key '{key.value}' is given twice"
                raise RefusedError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
            if key.tag != MERGE:
                key.tag = TEXT
            _check_keys(value)


def _places(node: yaml.Node, at: KeyPath, line: int) -> Iterator[tuple[KeyPath, int, yaml.Node]]:
    """Each value with its path, and the line of its key."""
    yield at, line, node
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _places(value, (*at, key.value), key.start_mark.line + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _places(value, (*at, index), value.start_mark.line + 1)


def _is_bare(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.style


def _unshared(value: Any) -> Any:
    """A deep copy without shared aliases, so that an override changes one place only."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value
