"""Formats in which a row of a shard is a sample: tables of numbers, vectors, lists of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manta.sample.columns import Columns, Ragged, from_arrow
from manta.sample.format import OpenShards, SplitSize


@dataclass(frozen=True)
class RowFormat:
    """A sample is a row: its columns are those of the schema, and it adds 1 to the clock.

    Numbers become arrays (samples,), lists of fixed size (samples, size, …), other lists of numbers
    a `Ragged`.

    Attributes:
        name: the format's name.
        schema: columns of a row.
    """

    name: str
    schema: pa.Schema

    def __hash__(self) -> int:
        return hash((self.name, str(self.schema)))  # an Arrow schema has no hash

    def count(self, split: SplitSize, length: int) -> int:
        """The rows."""
        return split.rows

    def clock(self, length: int) -> int:
        """A sample counts as one."""
        return 1

    def read(self, shards: OpenShards, ids: NDArray[Any]) -> Columns:
        """The rows with these numbers."""
        return rows_of(shards, ids, self.schema)


def rows_of(shards: OpenShards, ids: NDArray[Any], schema: pa.Schema) -> Columns:
    """The columns of a schema for some rows, which are numbered through the shards of a split.

    Args:
        shards: the split's shards.
        ids: row numbers, in any order, shape (samples,).
        schema: columns of numbers, or of lists of numbers.
    """
    ids = np.asarray(ids, dtype=np.int64)
    shard_of = np.searchsorted(shards.row_bounds, ids, side="right") - 1
    order = np.argsort(shard_of, kind="stable")
    pieces = [_none_of(schema)]
    for index in np.unique(shard_of).tolist():
        mine = order[shard_of[order] == index]
        columns = shards.view(index, lambda table: _columns(table, schema))
        rows = ids[mine] - shards.row_bounds[index]
        pieces.append({name: _taken(column, rows) for name, column in columns.items()})
    # Gathered shard by shard; `back` puts them where they were asked for.
    back = np.empty(len(ids), dtype=np.int64)
    back[order] = np.arange(len(ids))
    return {name: _taken(_joined([piece[name] for piece in pieces]), back) for name in schema.names}


def _columns(table: Any, schema: pa.Schema) -> Columns:
    for field in schema:
        if table.schema.field(field.name).type != field.type:
            raise ValueError(f"column {field.name} is {table.schema.field(field.name).type}")
    return {name: from_arrow(table.column(name)) for name in schema.names}


def _none_of(schema: pa.Schema) -> Columns:
    return {field.name: from_arrow(pa.array([], field.type)) for field in schema}


def _taken(column: NDArray[Any] | Ragged, rows: NDArray[np.int64]) -> NDArray[Any] | Ragged:
    if not isinstance(column, Ragged):
        return column[rows]
    lengths = column.lengths[rows]
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    # Each list's numbers, end to end: from where it begins in the column, `lengths` of them.
    places = np.arange(bounds[-1]) + np.repeat(column.bounds[rows] - bounds[:-1], lengths)
    return Ragged(column.values[places], bounds)


def _joined(pieces: list[Any]) -> NDArray[Any] | Ragged:
    if not isinstance(pieces[0], Ragged):
        return np.concatenate(pieces)
    lengths = np.concatenate([piece.lengths for piece in pieces])
    values = np.concatenate([piece.flat for piece in pieces])
    return Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))
