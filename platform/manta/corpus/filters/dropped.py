"""The record of what filters left out: `dropped.parquet` in the corpus's folder.

A row is a document: the filter and the rule that dropped it, the number that broke the rule, where
it came from, and its hash. Some documents of each unit and rule are shown by the start of their
text, as the filter got it, so with placeholders for private data.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manta.config.errors import CorpusError

DROPPED = "dropped.parquet"
# Documents of a unit and rule that are shown, and characters of each.
SHOWN = 10
SHOWN_TEXT = 500

SCHEMA = pa.schema(
    [
        ("filter", pa.string()),
        ("reason", pa.string()),
        ("score", pa.float64()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("row", pa.string()),
        ("doc_id", pa.string()),
        ("text", pa.string()),
        ("like", pa.string()),
        ("like_text", pa.string()),
    ]
)


@dataclass(frozen=True)
class DroppedDocument:
    """A document that was left out.

    Attributes:
        filter: name of the filter.
        reason: name of the rule.
        score: number that broke the rule, if there is one.
        source: name of the document's source.
        file: name of the document's file.
        row: place in the file, such as `line 4`; empty if unknown.
        doc_id: hash of the text that the filter got, in hexadecimal.
        text: start of that text; None if the document isn't shown.
        like: hash of the document that was kept in place of this one, if that is the reason.
        like_text: start of that document's text, if this one is shown.
    """

    filter: str
    reason: str
    score: float | None
    source: str
    file: str
    row: str
    doc_id: str
    text: str | None
    like: str | None = None
    like_text: str | None = None


class Examples:
    """Which documents of a unit are shown: the first ones of each filter and rule."""

    def __init__(self) -> None:
        self._seen = Counter[tuple[str, str]]()

    def is_next(self, filter_: str, reason: str) -> bool:
        """Whether the next document that a rule drops is shown."""
        self._seen[filter_, reason] += 1
        return self._seen[filter_, reason] <= SHOWN

    def start_of(self, filter_: str, reason: str, text: str) -> str | None:
        """The start of a text if it is to be shown."""
        return start_of(text) if self.is_next(filter_, reason) else None


def start_of(text: str) -> str:
    """The start of a text, as it is shown."""
    return text if len(text) <= SHOWN_TEXT else text[:SHOWN_TEXT] + "…"


def table_of(documents: list[DroppedDocument]) -> Any:
    """The table of some documents."""
    rows = [dict(zip(SCHEMA.names, astuple(document), strict=True)) for document in documents]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def read_dropped(folder: str | Path) -> list[DroppedDocument]:
    """The documents that are shown of those that were left out, in the order of the record.

    Raises:
        CorpusError: if there is no such record, or it can't be read.
    """
    path = Path(folder) / DROPPED
    if not path.exists():
        raise CorpusError(
            f"{path}: is missing, though filters dropped documents: prepare the corpus again, or "
            "copy it anew"
        )
    try:
        table = pq.read_table(path, filters=pc.field("text").is_valid())
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{path}: can't be read: {error}") from None
    return [DroppedDocument(**row) for row in table.to_pylist()]
