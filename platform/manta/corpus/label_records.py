"""Records of texts with a label: a class by its name, or a number.

A record's text, from which its hash and split follow, is an object with ``label`` and ``text`` as
JSON. A class's name is a text; whole numbers and booleans name classes too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from manta.corpus.conversations import Record, UnusableRecord

LABELLED_COLUMNS = ("text", "label")


def classed_text(record: Record, columns: Mapping[str, str]) -> str:
    """A record of a text and its class as JSON with sorted keys; "" if the text is white space.

    Args:
        record: a row of a source.
        columns: ``text`` and ``label`` → what the source calls them.

    Raises:
        UnusableRecord: if a column is missing or holds something else.
    """
    return _whole(record, columns, _class(_value(record, columns, "label"), columns["label"]))


def numbered_text(record: Record, columns: Mapping[str, str]) -> str:
    """The same of a text and the number that it is labelled with."""
    return _whole(record, columns, _number(_value(record, columns, "label"), columns["label"]))


def _whole(record: Record, columns: Mapping[str, str], label: str | float) -> str:
    text = _value(record, columns, "text")
    if not isinstance(text, str):
        raise UnusableRecord(f"'{columns['text']}' is not a text")
    whole = json.dumps({"label": label, "text": text}, ensure_ascii=False)
    try:
        whole.encode()
    except UnicodeEncodeError:
        raise UnusableRecord("a text holds half of a surrogate pair, which is no Unicode") from None
    return whole if text.strip() else ""


def label_of(text: str) -> Any:
    """The label in what `classed_text` or `numbered_text` made."""
    return json.loads(text)["label"]


def sorted_classes(names: Collection[str]) -> list[str]:
    """The names of classes in the order of their numbers: by value where all are whole numbers."""
    try:
        return sorted(names, key=int)
    except ValueError:
        return sorted(names)


def _value(record: Record, columns: Mapping[str, str], name: str) -> Any:
    column = columns[name]
    if column not in record:
        there = ", ".join(map(repr, list(record)[:8])) or "nothing"
        raise UnusableRecord(
            f"no '{column}' here, only {there}: name its column in labelled.{name}"
        )
    if record[column] is None:
        raise UnusableRecord(f"'{column}' is null")
    return record[column]


def _class(value: Any, column: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        raise UnusableRecord(
            f"'{column}' is {value}: a class is named by a text or a whole number; to have numbers "
            "predicted, set labelled.labels: numbers"
        )
    if not isinstance(value, str | int) or not str(value).strip():
        raise UnusableRecord(f"'{column}' is no name of a class: {str(value)[:40]!r}")
    return str(value)


def _number(value: Any, column: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UnusableRecord(
            f"'{column}' is {str(value)[:40]!r}, not a finite number; where labels name classes, "
            "set labelled.labels: classes"
        )
    return float(value)
