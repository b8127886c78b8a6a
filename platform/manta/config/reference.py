"""The reference of all config keys, made from the sections that check them.

A key's meaning and unit are declared with the key (`Field(description=…)`), so that `manta keys`,
docs/config.md and the checks of a config can't differ.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from inspect import cleandoc
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manta.config.corpus import CorpusConfig
from manta.config.drift import DriftConfig
from manta.config.errors import ConfigError
from manta.config.evaluation import EvaluationConfig
from manta.config.gate import GateConfig
from manta.config.mistakes import NAME
from manta.config.on_change import on_change_of, rounds
from manta.config.retraining import RetrainConfig
from manta.config.run import RunConfig
from manta.config.section import Section
from manta.config.sweep import SweepConfig
from manta.config.tuning import TuningConfig
from manta.config.units import format_tokens, parse_span, parse_tokens

# Title of each kind of config, with the command that takes it → its type.
CONFIGS: dict[str, type[Section]] = {
    "Run: `manta train RUN.yaml`": RunConfig,
    "Sweep: `manta sweep SWEEP.yaml`": SweepConfig,
    "Tuning: `manta tune TUNING.yaml`": TuningConfig,
    "Corpus: `manta prepare CORPUS.yaml`": CorpusConfig,
    "Evaluation: `manta evaluate RUN EVAL.yaml`": EvaluationConfig,
    "Gate: `manta gate RUN GATE.yaml`": GateConfig,
    "Drift: `manta drift NEW --against RUN --config DRIFT.yaml`": DriftConfig,
    "Retraining: `manta retrain TRIGGERS.yaml`": RetrainConfig,
}
BOUNDS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text"}
REQUIRED = "required"


@dataclass(frozen=True)
class Key:
    """One key of a config.

    Attributes:
        name: the dotted key; `[]` stands for each entry of a list.
        values: the values that the key takes, in words.
        default: the default as it would be written in YAML, or `required`.
        meaning: effect of the key, with its unit.
        change: whether a run that has begun may continue with another value; "" for keys of other
            kinds of config.
    """

    name: str
    values: str
    default: str
    meaning: str
    change: str = ""


def config_keys(config: type[Section], prefix: str = "") -> list[Key]:
    """The keys of a config, in their order.

    Args:
        config: the config's type.
        prefix: only keys that begin with this text; a part of a name counts.
    """
    return [
        replace(key, change=_change(config, key.name))
        for key in _keys(config, "")
        if key.name.startswith(prefix)
    ]


def _change(config: type[Section], name: str) -> str:
    found = on_change_of(config, name.replace("[]", ""))
    if found and rounds(config, name.replace("[]", "")):
        return f"{found.value}; with train.reproducible in a fork"
    return found.value if found else ""


def _keys(section: type[Section], above: str) -> Iterator[Key]:
    for field_name, field in section.model_fields.items():
        name = above + (field.alias or field_name)
        sections = list(_sections(field.annotation, name))
        if not _is_plain_section(field.annotation):
            yield Key(name, _values(field), _default(field), field.description or "")
        if field.description and field.description.startswith("as "):
            continue  # "as KEY": the keys are listed at that key
        for inner, inner_name in sections:
            yield from _keys(inner, f"{inner_name}.")


def _is_plain_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _sections(annotation: Any, name: str) -> Iterator[tuple[type[Section], str]]:
    """The sections that a value may be or contain, with the prefix of their keys."""
    if _is_plain_section(annotation):
        yield annotation, name
        return
    inner_name = name
    if get_origin(annotation) is list:
        inner_name = f"{name}[]"
    elif get_origin(annotation) is dict:
        inner_name = f"{name}.{NAME}"
    for part in _parts(annotation):
        yield from _sections(part, inner_name)


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The members of a type; for an annotated one, the type without its annotations."""
    found = get_args(annotation)
    if get_origin(annotation) is Literal:
        return ()
    return found[:1] if get_origin(annotation) is Annotated else found


def _values(field: FieldInfo) -> str:
    return _words(field.annotation, tuple(field.metadata))


def _words(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """The values of a type, in words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _words(annotation.__origin__, (*annotation.__metadata__, *metadata))
    if origin in (Union, UnionType):
        return _choice(annotation, metadata)
    if origin is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if origin is list:
        return f"list of: {_words(get_args(annotation)[0])}"
    if origin is tuple:
        return " and ".join(map(_words, get_args(annotation)))
    if origin is dict or annotation is dict:
        return "mapping"
    if _is_plain_section(annotation):
        return "section"
    return _scalar(annotation, metadata)


def _choice(annotation: Any, metadata: tuple[Any, ...]) -> str:
    parts = get_args(annotation)
    if _reads_with(parse_span, metadata):
        return "token count or share of the horizon (5%)"
    shown = [_words(part, metadata) for part in parts if part is not NoneType]
    return " or ".join([*dict.fromkeys(shown), *(["null"] if NoneType in parts else [])])


def _scalar(annotation: Any, metadata: tuple[Any, ...]) -> str:
    if _reads_with(parse_tokens, metadata):
        words = "token count (2M)"
    else:
        words = PLAIN.get(annotation, "value")
    found = [_bound(entry) for entry in _flat(metadata) if type(entry) in BOUNDS]
    return ", ".join([words, *found])


def _bound(entry: Any) -> str:
    sign, attribute = BOUNDS[type(entry)]
    limit = getattr(entry, attribute)
    return f"{sign} {limit:.3g}" if limit > 10**9 else f"{sign} {limit:g}"


def _flat(metadata: tuple[Any, ...]) -> Iterator[Any]:
    """The entries of an annotation's metadata, with those inside a `Field` unpacked."""
    for entry in metadata:
        yield from entry.metadata if isinstance(entry, FieldInfo) else (entry,)


def _reads_with(function: Any, metadata: tuple[Any, ...]) -> bool:
    return any(isinstance(m, BeforeValidator) and m.func is function for m in _flat(metadata))


def _default(field: FieldInfo) -> str:
    """A default as it is written in a config file."""
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        return "section"
    if isinstance(value, int) and not isinstance(value, bool) and "token count" in _values(field):
        return format_tokens(value)
    return value if isinstance(value, str) else json.dumps(value)


def show_keys(prefix: str, console: Console) -> None:
    """Print the keys below a prefix, by kind of config.

    Raises:
        ConfigError: if no key begins with it.
    """
    found = {title: config_keys(config, prefix) for title, config in CONFIGS.items()}
    if not any(found.values()):
        known = [key.name for config in CONFIGS.values() for key in config_keys(config)]
        near = difflib.get_close_matches(prefix, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"no config key begins with '{prefix}'{hint}")
    for title, keys in found.items():
        if keys:
            table = Table(title=title.replace("`", ""), title_justify="left", box=None)
            changes = any(key.change for key in keys)
            for heading in ("key", "default", "meaning", "values", *["changes"] * changes):
                table.add_column(heading, overflow="fold")
            for key in keys:
                cells = (key.name, key.default, key.meaning, key.values, *[key.change] * changes)
                table.add_row(*map(escape, cells))
            console.print(table)


def as_markdown() -> str:
    """The whole reference as Markdown, the content of docs/config.md."""
    lines = [
        "# Config keys",
        "",
        "Made from the code by `make reference`; `manta keys [PREFIX]` prints the same. A token",
        "count is written as `2000000`, `2M` or `1.5B` (powers of 1000). Any key may be changed",
        "on the command line: `manta train run.yaml train.seq_len=512`. The last column of a run's",
        "keys says whether a run that has begun may continue with another value.",
    ]
    for title, config in CONFIGS.items():
        lines += ["", f"## {title}", "", cleandoc(config.__doc__ or "")]
        keys = config_keys(config)
        changes = any(key.change for key in keys)
        headings = ["key", "values", "default", "meaning", *["changes"] * changes]
        lines += ["", f"| {' | '.join(headings)} |", "| --- " * len(headings) + "|"]
        for key in keys:
            cells = [f"`{key.name}`", key.values, f"`{key.default}`", key.meaning]
            cells += [key.change] * changes
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
