"""What a record of a source is read as: by kind, of `chat.records` or `labelled.labels`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from manta.config.corpus import LabelKind, RecordKind
from manta.corpus.conversations import COLUMNS, Record, conversation_text
from manta.corpus.label_records import LABELLED_COLUMNS, classed_text, numbered_text
from manta.corpus.pair_records import PAIR_COLUMNS, pair_text

Make = Callable[[Record, Mapping[str, str]], str]
_KINDS: dict[RecordKind | LabelKind, tuple[Sequence[str], Make]] = {
    "conversations": (COLUMNS, conversation_text),
    "pairs": (PAIR_COLUMNS, pair_text),
    "classes": (LABELLED_COLUMNS, classed_text),
    "numbers": (LABELLED_COLUMNS, numbered_text),
}


class WantedRecords(TypedDict):
    """What is read of a source of records, as plain JSON values.

    Attributes:
        records: kind of the records.
        columns: a column's name here → what the source calls it.
    """

    records: RecordKind | LabelKind
    columns: dict[str, str]


def columns_of(wanted: WantedRecords) -> list[str]:
    """The columns that may be read, by the names that the source has for them."""
    names, _ = _KINDS[wanted["records"]]
    return [wanted["columns"].get(name, name) for name in names]


def record_text(record: Record, wanted: WantedRecords) -> str:
    """The text by which a record is known, and from which it is encoded.

    Raises:
        UnusableRecord: if it is no such record.
    """
    _, make = _KINDS[wanted["records"]]
    return make(record, wanted["columns"])
