"""From sample ids to columns: a split's shards, memory-mapped and read by the corpus's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from manta.config.errors import CorpusError
from manta.corpus import remote
from manta.corpus.manifest import Shard
from manta.sample import shard_file
from manta.sample.columns import Columns
from manta.sample.format import Format
from manta.storage.cache import CachedFile
from manta.stream.table import ShardTable

Viewed = TypeVar("Viewed")
# Shards mapped at a time by one reader: Linux allows a process 65,530 maps (vm.max_map_count).
MOST_MAPPED = 8192


class ShardReader:
    """Reads samples of one split of a corpus, at one length: the `OpenShards` of its format.

    Shards are fetched and mapped when first touched, so that opening a corpus of any size is cheap.

    Raises:
        CorpusError: if the split holds no whole sample, or a shard is missing or damaged.
    """

    def __init__(self, corpus: str | Path, table: ShardTable, form: Format, length: int):
        self.corpus = str(corpus)
        self.format = form
        self.length = length
        self._shards = table
        self.token_bounds, self.row_bounds = table.bounds, table.row_bounds
        self.num_samples = form.count(table.size, length)
        # `CachedFile` keeps a fetched file in the node's cache while it is mapped.
        self._mapped: dict[int, tuple[CachedFile, Any]] = {}
        if self.num_samples <= 0:
            raise CorpusError(
                f"{self.corpus}: the {table.split} split has {table.size.tokens} tokens, fewer "
                f"than one sample of train.seq_len = {length}; lower train.seq_len, or prepare "
                "more data for the split"
            )

    def read(self, ids: NDArray[np.int64]) -> Columns:
        """The samples with these ids, one row each, in the given order.

        Args:
            ids: sample ids in [0, num_samples), shape (samples,).
        """
        return self.format.read(self, ids)

    def view(self, index: int, make: Callable[[Any], Viewed]) -> Viewed:
        """`make` of a shard's record batch, called once while the shard is mapped.

        Raises:
            CorpusError: if the shard is missing or damaged, or `make` raises ValueError.
        """
        mapped = self._mapped.get(index)
        if mapped is None:
            mapped = self._mapped[index] = self._map(self._shards[index], make)
            if len(self._mapped) > MOST_MAPPED:  # unmap the one that was mapped first
                del self._mapped[next(iter(self._mapped))]
        made: Viewed = mapped[1]
        return made

    def _map(self, shard: Shard, make: Callable[[Any], Viewed]) -> tuple[CachedFile, Viewed]:
        held = remote.local_shard(self.corpus, shard)
        path = held.path
        try:
            size = path.stat().st_size
        except OSError as error:
            raise CorpusError(f"{path}: can't be read: {error.strerror}") from None
        if size != shard.bytes:
            raise CorpusError(
                f"{path}: {size} bytes, but the manifest says {shard.bytes}; "
                "the shard is damaged: prepare the corpus again"
            )
        table = shard_file.read(path)
        try:
            if table.num_rows != shard.documents:
                raise ValueError(f"{table.num_rows} rows")
            return held, make(table)
        except (ValueError, KeyError) as error:
            raise CorpusError(
                f"{path}: its content is not what the manifest says: {error}; prepare the "
                "corpus again"
            ) from None
