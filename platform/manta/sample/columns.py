"""Named columns of samples: as arrays in a batch, and as an Arrow table on the way to it.

A column's first axis is the samples. It is a NumPy array of any number of axes, or a `Ragged`
where each sample has a list of its own length. Both travel without a copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# Name → NumPy array or Ragged, all of as many samples.
Columns = dict[str, Any]


class Ragged:
    """A list of numbers for each sample, of any length.

    A plain class with slots: one is made for each batch, and a frozen dataclass takes longer.

    Attributes:
        values: the values of many samples end to end, in one dimension.
        bounds: where each sample's list begins in `values`, and where the last ends: integers,
            shape (samples + 1,). The first need not be 0.
    """

    __slots__ = ("bounds", "values")

    def __init__(self, values: NDArray[Any], bounds: NDArray[Any]):
        self.values, self.bounds = values, bounds

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, samples: slice) -> Ragged:
        """Some consecutive samples, without a copy."""
        first, end, _ = samples.indices(len(self.bounds) - 1)
        return Ragged(self.values, self.bounds[first : (end if end > first else first) + 1])

    @property
    def flat(self) -> NDArray[Any]:
        """The numbers of all samples end to end."""
        return self.values[self.bounds[0] : self.bounds[-1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many numbers each sample has, shape (samples,)."""
        return np.diff(self.bounds).astype(np.int64)

    def tolist(self) -> list[list[Any]]:
        """Plain lists, one a sample."""
        ends = zip(self.bounds[:-1], self.bounds[1:], strict=True)
        return [self.values[first:end].tolist() for first, end in ends]


def sliced(columns: Columns, samples: slice) -> Columns:
    """Some consecutive samples, without a copy."""
    return {name: column[samples] for name, column in columns.items()}


def to_arrow(column: NDArray[Any] | Ragged) -> pa.Array:
    """A column as an Arrow array: axes after the first as lists of fixed size."""
    if isinstance(column, Ragged):
        bounds = column.bounds.astype(np.int32, copy=False)
        return pa.ListArray.from_arrays(pa.array(bounds), pa.array(column.values))
    array = pa.array(column.reshape(-1))
    for size in reversed(column.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def from_arrow(array: pa.Array) -> NDArray[Any] | Ragged:
    """What `to_arrow` made an Arrow array of."""
    if pa.types.is_list(array.type):
        return Ragged(array.values.to_numpy(), array.offsets.to_numpy())
    shape = [len(array)]
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    values: NDArray[Any] = array.to_numpy(zero_copy_only=not pa.types.is_boolean(array.type))
    return values.reshape(shape)
