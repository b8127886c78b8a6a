"""What a record of a source is read as, by its kind: a text, a conversation, a pair, a label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

from manta.config.corpus import LabelKind, RecordKind
from manta.corpus.conversations import COLUMNS, Record, UnusableRecord, conversation_text
from manta.corpus.label_records import LABELLED_COLUMNS, classed_text, numbered_text
from manta.corpus.pair_records import PAIR_COLUMNS, pair_text

Kind = Literal["texts"] | RecordKind | LabelKind
Make = Callable[[Record, Mapping[str, str]], str]


def plain_text(record: Record, columns: Mapping[str, str]) -> str:
    """The text of a record that is one, as it is.

    Raises:
        UnusableRecord: if it is missing, or isn't valid text.
    """
    column = columns["text"]
    text = value_in(record, column)
    if not isinstance(text, str):
        raise UnusableRecord(f"'{column}' is not a text but {kind_of(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnusableRecord(
            f"'{column}' has half of a surrogate pair, which isn't valid Unicode"
        ) from None
    return text


_KINDS: dict[Kind, tuple[Sequence[str], Make]] = {
    "texts": (("text",), plain_text),
    "conversations": (COLUMNS, conversation_text),
    "pairs": (PAIR_COLUMNS, pair_text),
    "classes": (LABELLED_COLUMNS, classed_text),
    "numbers": (LABELLED_COLUMNS, numbered_text),
}


class WantedRange(TypedDict):
    """Which records are read, as plain JSON values: those with a number in a range.

    Attributes:
        column: the column that holds the number.
        at_least: the smallest number; None for any.
        below: number that is above those of the records; None for any.
    """

    column: str
    at_least: float | None
    below: float | None


class WantedRecords(TypedDict):
    """What is read of a source of records, as plain JSON values.

    Attributes:
        records: kind of the records.
        columns: a column's name here → what the source calls it.
        only: range of a number in the records that are read; all are if left out.
    """

    records: Kind
    columns: dict[str, str]
    only: NotRequired[WantedRange]


def columns_of(wanted: WantedRecords) -> list[str]:
    """The columns that may be read, by the names that the source has for them."""
    names, _ = _KINDS[wanted["records"]]
    found = [wanted["columns"].get(name, name) for name in names]
    return [*found, wanted["only"]["column"]] if "only" in wanted else found


def record_text(record: Record, wanted: WantedRecords) -> str | None:
    """The text by which a record is known, and from which it is encoded; None if it isn't read.

    Raises:
        UnusableRecord: if it is no such record.
    """
    _, make = _KINDS[wanted["records"]]
    if "only" in wanted and not _is_within(record, wanted["only"]):
        return None
    return make(record, wanted["columns"])


def _is_within(record: Record, only: WantedRange) -> bool:
    """Whether a record has its number in a range.

    Raises:
        UnusableRecord: if it has no number.
    """
    number = value_in(record, only["column"])
    if isinstance(number, bool) or not isinstance(number, int | float) or number != number:
        raise UnusableRecord(f"'{only['column']}' is not a number but {kind_of(number)}")
    low, high = only["at_least"], only["below"]
    return (low is None or number >= low) and (high is None or number < high)


def value_in(record: Mapping[str, Any], column: str) -> Any:
    """The value under a key, or under dotted keys of objects within objects.

    Raises:
        UnusableRecord: if a key is missing.
    """
    if column in record:
        return record[column]
    found: Any = record
    for key in column.split("."):
        if not isinstance(found, Mapping) or key not in found:
            names = ", ".join(repr(name) for name in _keys(record)[:8])
            raise UnusableRecord(f"no '{column}' here, only {names or 'nothing'}")
        found = found[key]
    return found


def _keys(value: Mapping[str, Any], above: str = "") -> list[str]:
    """Keys of an object; keys of objects within it are joined by dots."""
    found = []
    for key, inner in value.items():
        found += _keys(inner, f"{above}{key}.") if isinstance(inner, dict) else [above + key]
    return found


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, float) and value != value:
        return "NaN"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "an object")
