"""A format: what a sample is, from a shard of a corpus to the columns of a batch.

A corpus names its format in the manifest. Everything between, the order of samples, who reads
which, resuming, the ledger, knows samples by their numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa
from numpy.typing import NDArray

from manta.sample.columns import Columns

Viewed = TypeVar("Viewed")


@dataclass(frozen=True)
class SplitSize:
    """How large a split of a corpus is.

    Attributes:
        rows: rows of its shards, which are documents where samples are cut from text.
        tokens: amount the rows add to the clock: tokens, or samples where a format has none.
    """

    rows: int
    tokens: int


class OpenShards(Protocol):
    """The shards of one split, mapped into memory when they are first touched.

    Attributes:
        length: length of a sample, `train.seq_len`.
        row_bounds: rows before each shard, and in all: int64 (shards + 1,).
        token_bounds: tokens before each shard, and in all: int64 (shards + 1,).
    """

    length: int

    @property
    def row_bounds(self) -> NDArray[Any]: ...

    @property
    def token_bounds(self) -> NDArray[Any]: ...

    def view(self, index: int, make: Callable[[pa.RecordBatch], Viewed]) -> Viewed:
        """What `make` makes of a shard's record batch, once while the shard is mapped."""
        ...


class Format(Protocol):
    """What a sample is. Small to pickle; two that are equal read the same.

    Attributes:
        name: the format's name in manifests.
        schema: columns of a shard, beside doc_id and source.
    """

    @property
    def name(self) -> str: ...

    @property
    def schema(self) -> pa.Schema: ...

    def count(self, split: SplitSize, length: int) -> int:
        """Samples in a split, numbered from 0."""
        ...

    def read(self, shards: OpenShards, ids: NDArray[Any]) -> Columns:
        """The samples with these ids, one row each, in the given order; without ids, no rows.

        Args:
            shards: the split's shards.
            ids: sample ids, int64 (samples,).
        """
        ...

    def clock(self, length: int) -> int:
        """What one sample adds to the clock: its tokens, or 1 where a format has none."""
        ...
