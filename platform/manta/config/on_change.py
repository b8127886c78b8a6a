"""What a changed value of a config key means for a run that has begun; each key declares it.

A section declares it for all of its keys, and a key for itself where it differs. It determines
whether a run may continue with another value, whether trials of a sweep with different values share
steps, and which keys a comparison ignores.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

from pydantic import Field
from pydantic.fields import FieldInfo

from manta.config.section import Section


class OnChange(Enum):
    """What follows from another value of a key. A member's value is the text that people read.

    START: the key decides what positions and tensors are, so no saved state fits another value.
    FORK: the key decides the mathematics, so another value makes another run, which may start from
        a checkpoint of this one.
    NOTE: the key decides how the same is computed, judged or measured. Rounding may differ, so
        trials of a sweep with different values share no steps.
    KEEP: the key decides which workers train the run, and where it is kept.
    LABEL: the key decides where the run is shown; comparisons ignore it.
    """

    START = "no"
    FORK = "in a fork"
    NOTE = "yes, noted"
    KEEP = "yes"
    LABEL = "yes; not compared"


def key(on_change: OnChange, *, rounds: bool = False, **field: Any) -> Any:
    """A pydantic `Field` that declares its `OnChange`.

    Args:
        on_change: the meaning of another value for a run that has begun.
        rounds: whether another value changes how the same sums are rounded; then a run with
            `train.reproducible` may change it in a fork only.
        field: arguments of `Field`.
    """
    return Field(json_schema_extra={"on_change": on_change.name, "rounds": rounds}, **field)


def on_change_of(config: type[Section], dotted: str) -> OnChange | None:
    """The `OnChange` of a key; for a key inside a value that is no section, the value's.

    Args:
        config: the config's type.
        dotted: the key, such as `train.seq_len`.

    Returns:
        None if neither the key nor a section around it declares it.
    """
    found: OnChange | None = None
    for field in _fields_along(config, dotted):
        found = _said_by(field) or found
    return found


def rounds(config: type[Section], dotted: str) -> bool:
    """Whether another value of a key changes how the same sums are rounded.

    Args:
        config: the config's type.
        dotted: the key, such as `train.micro_batch`, or one inside its value.
    """
    return any(_extra(field).get("rounds") for field in _fields_along(config, dotted))


def _fields_along(config: type[Section], dotted: str) -> Iterator[FieldInfo]:
    """The fields that a dotted key leads through, as far as they are of sections."""
    section: type[Section] | None = config
    for name in dotted.split("."):
        if section is None:
            return
        field = {field.alias or n: field for n, field in section.model_fields.items()}.get(name)
        if field is None:
            return
        yield field
        section = _section_of(field)


def keys_of(config: type[Section], *kinds: OnChange, above: str = "") -> Iterator[str]:
    """The dotted keys with one of `kinds`; a section's key stands for all keys in it."""
    for name, field in config.model_fields.items():
        dotted = above + (field.alias or name)
        inner = _section_of(field)
        if inner is not None and _differs_within(inner):
            yield from keys_of(inner, *kinds, above=f"{dotted}.")
        elif (_said_by(field) or config.on_change) in kinds:
            yield dotted


def _said_by(field: FieldInfo) -> OnChange | None:
    """What a key declares, or else the section that is its value."""
    inner = _section_of(field)
    said: OnChange | None = _own(field) or (inner.on_change if inner else None)
    return said


def _own(field: FieldInfo) -> OnChange | None:
    """What a key itself declares."""
    name = _extra(field).get("on_change")
    return OnChange[str(name)] if name else None


def _extra(field: FieldInfo) -> dict[str, Any]:
    """What `key` has declared beside the field itself."""
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _section_of(field: FieldInfo) -> type[Section] | None:
    inner = field.annotation
    return inner if isinstance(inner, type) and issubclass(inner, Section) else None


def _differs_within(section: type[Section]) -> bool:
    """Whether any key of a section declares its own `OnChange`."""
    return any(_own(field) for field in section.model_fields.values())
