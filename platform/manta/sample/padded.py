"""Rows of documents, each row padded to one length: how they are packed, and read again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manta.sample import shard_file
from manta.sample.columns import Columns, Ragged, from_arrow
from manta.sample.format import OpenShards, SplitSize
from manta.sample.packing import pack
from manta.sample.rows import rows_of
from manta.sample.tokens import TokenDtype


@dataclass(frozen=True)
class PaddedFormat(ABC):
    """A format whose samples are such rows; `schema` is that of the format.

    Attributes:
        dtype: type of the tokens.
        length: tokens of a row, for which the corpus was laid out.
        padding: token that fills a row up; it is never trained on or read, whatever it is.
    """

    dtype: TokenDtype
    length: int
    padding: int

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """Columns of a shard, beside doc_id and source."""

    def count(self, split: SplitSize, length: int) -> int:
        """Rows of a split."""
        return split.rows

    def clock(self, length: int) -> int:
        """Tokens of a row, padding included."""
        return length

    def read(self, shards: OpenShards, ids: NDArray[Any]) -> Columns:
        """The columns of some rows."""
        return padded_rows(shards, ids, self.schema, self.length, self.padding)


def padded_rows(
    shards: OpenShards, ids: NDArray[Any], schema: pa.Schema, length: int, padding: int
) -> Columns:
    """The columns of some rows, with ``lengths`` (samples,), int32, tokens without padding.

    Args:
        shards: the split's shards.
        ids: row numbers, shape (samples,).
        schema: columns of a shard: ``tokens``, ``starts`` (where each document begins), and more,
            which are lists.
        length: tokens of a row, to which ``tokens`` are padded.
        padding: token that fills a row up. In ``starts`` it begins a document of its own.
    """
    found = rows_of(shards, ids, schema)
    tokens: Ragged = found["tokens"]
    lengths = tokens.lengths
    padded = np.full((len(lengths), length), padding, dtype=tokens.values.dtype)
    padded[np.arange(length) < lengths[:, None]] = tokens.flat
    others = {name: _int32_bounds(found[name]) for name in schema.names}
    return {
        **others,
        "tokens": padded,
        "starts": _with_padding(found["starts"], lengths, length),
        "lengths": lengths.astype(np.int32),
    }


def document_ends(columns: Columns) -> NDArray[np.int64]:
    """The last token of each document, as flat places ``row·length + column``, ascending.

    It is told by position; what pads a row is no document.

    Args:
        columns: ``tokens``, ``starts`` and ``lengths``, as `padded_rows` gives them.
    """
    length = columns["tokens"].shape[1]
    starts, lengths = columns["starts"], columns["lengths"].astype(np.int64)
    row_of = np.repeat(np.arange(len(lengths)), starts.lengths)
    real = starts.flat < lengths[row_of]
    begins, row_of = starts.flat[real].astype(np.int64), row_of[real]
    # A document ends where the next one of its row begins; the last one where its row ends.
    last = np.append(row_of[1:] != row_of[:-1], True)[: len(row_of)]
    ends = np.where(last, lengths[row_of], np.append(begins[1:], 0)[: len(row_of)])
    found: NDArray[np.int64] = ends - 1 + row_of * length
    return found


def _with_padding(starts: Ragged, lengths: NDArray[np.int64], length: int) -> Ragged:
    """Where documents begin in rows, with one more where the padding of a row begins."""
    padded = lengths < length
    counts = starts.lengths + padded
    bounds = np.concatenate([[0], np.cumsum(counts)])
    values = np.empty(bounds[-1], np.int32)
    last = bounds[1:][padded] - 1
    values[last] = lengths[padded]
    real = np.ones(len(values), dtype=bool)
    real[last] = False
    values[real] = starts.flat
    return Ragged(values, bounds.astype(np.int32))


def _int32_bounds(column: Ragged) -> Ragged:
    return Ragged(column.values, column.bounds.astype(np.int32))


@dataclass(frozen=True)
class PackedRows:
    """Documents of one source, laid into rows.

    Attributes:
        rows: the documents of each row, by their index.
        places: where each document of each row begins.
    """

    rows: list[list[int]]
    places: list[list[int]]

    @classmethod
    def of(cls, table: Any, length: int, *, alone: bool) -> PackedRows:
        """Lay the documents of a table into rows of `length`, or one in each if `alone`."""
        tokens: Any = from_arrow(table.column("tokens"))
        lengths = tokens.lengths.tolist()
        rows = [[index] for index in range(len(lengths))] if alone else pack(lengths, length)
        places = [np.cumsum([0, *(lengths[i] for i in row)])[:-1].tolist() for row in rows]
        return cls(rows, places)

    def moved(self, table: Any, name: str) -> list[list[int]]:
        """A column of places within documents as places within rows."""
        within = table.column(name).to_pylist()
        return [
            [place + at for at, index in zip(places, row, strict=True) for place in within[index]]
            for places, row in zip(self.places, self.rows, strict=True)
        ]

    def shard(self, table: Any, schema: pa.Schema, more: dict[str, Sequence[Any]]) -> Any:
        """The rows of a shard.

        Args:
            table: the documents that were laid into rows.
            schema: columns of the rows: ``tokens`` and those of `more`.
            more: other columns, a value for each row.
        """
        tokens: Any = from_arrow(table.column("tokens"))
        held, names = tokens.tolist(), table.column("doc_id").to_pylist()
        of_rows = [[token for i in row for token in held[i]] for row in self.rows]
        doc_ids = ["+".join(names[i] for i in row) for row in self.rows]
        return rows_batch({**more, "tokens": of_rows}, doc_ids, table, schema)


def rows_batch(
    columns: Mapping[str, Sequence[Any]], doc_ids: list[str], table: Any, schema: Any
) -> Any:
    """The record batch of a shard.

    Args:
        columns: values of the schema's columns, one for each row.
        doc_ids: ids of the documents in each row, joined by `+`.
        table: the documents that the rows were made of, of one source.
        schema: columns of the rows.
    """
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    # Of one source: that of the first document is that of all rows.
    source = table.column("source").take(pa.array(np.zeros(len(doc_ids), np.int64)))
    ids = pa.array(doc_ids, pa.string())
    return pa.record_batch([*arrays, ids, source], schema=shard_file.whole_schema(schema))
