"""The base of every config section: strict, immutable, printable."""

from collections.abc import Iterator
from functools import cache
from types import NoneType
from typing import Annotated, Any, ClassVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Section(BaseModel):
    """One level of a config file. Unknown keys are errors; values never change.

    Attributes:
        on_change: the `OnChange` of every key in the section that declares none of its own.
    """

    on_change: ClassVar[Any] = None

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        serialize_by_alias=True,
        validate_default=True,
        allow_inf_nan=False,
        defer_build=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `yes` in a key for numbers, also in a list; Python would read it as 1."""
        annotation: Any = cls.model_fields[str(info.field_name)].annotation
        if _are_numbers(annotation) and _holds_bool(value):
            raise ValueError("write a number, not true or false")
        return value


@cache
def _are_numbers(annotation: Any) -> bool:
    """Whether a value of this type, or all that it contains, can only be numbers."""
    return set(_parts(annotation)) <= {int, float, NoneType}


def _parts(annotation: Any) -> Iterator[Any]:
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    elif get_origin(annotation) is dict:
        arguments = arguments[1:]
    for argument in arguments:
        yield from _parts(argument)
    if not arguments:
        yield annotation


def _holds_bool(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return any(map(_holds_bool, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool)
