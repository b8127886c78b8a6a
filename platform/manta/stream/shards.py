"""Sample id → tokens, by memory map.

Index spaces: a *token offset* counts tokens from the start of a split (its shards laid
end to end in the manifest's order); sample `i` covers the token offsets
``[i·seq_len, (i+1)·seq_len)``. What is left over at the end of a split is not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manta.config.errors import CorpusError
from manta.corpus import remote, shard_table
from manta.corpus.manifest import Shard
from manta.storage.cache import Held
from manta.stream.table import ShardTable

# Rows gathered aside before they are put in place: about 1 MB, so that they stay in a cache.
ROWS_AT_ONCE = 256
# Shards mapped at a time by one reader: Linux allows a process 65,530 maps (vm.max_map_count).
MOST_MAPPED = 8192


@dataclass(frozen=True)
class Samples:
    """Tokens of some samples and where documents begin in them.

    Attributes:
        tokens: shape (samples, seq_len), the corpus's token dtype.
        starts: flat places ``row·seq_len + column`` at which a document begins, ascending.
    """

    tokens: NDArray[np.unsignedinteger]
    starts: NDArray[np.int64]

    def position_ids(self) -> NDArray[np.int64]:
        """Positions that restart at each document and each sample; shape of `tokens`."""
        rows, seq_len = self.tokens.shape
        here = np.arange(rows * seq_len, dtype=np.int64)
        begins = np.zeros(rows * seq_len, dtype=np.int64)
        begins[::seq_len] = here[::seq_len]
        begins[self.starts] = self.starts
        return (here - np.maximum.accumulate(begins)).reshape(rows, seq_len)


class ShardReader:
    """Reads samples of one split of a corpus, at one sequence length.

    Shards are fetched and mapped when first touched, so that opening a corpus of any size is cheap.

    Raises:
        CorpusError: if the split holds no whole sample, or a shard is missing or damaged.
    """

    def __init__(self, corpus: str | Path, table: ShardTable, seq_len: int):
        self.corpus = str(corpus)
        self.seq_len = seq_len
        self.dtype = table.dtype
        self._shards = table
        self._first = table.bounds
        self.num_samples = int(self._first[-1]) // seq_len
        self._mapped: dict[int, _MappedShard] = {}
        if self.num_samples == 0:
            raise CorpusError(
                f"{self.corpus}: the {table.split} split has {int(self._first[-1])} tokens, less "
                f"than one sample of train.seq_len = {seq_len}"
            )

    def read(self, ids: NDArray[np.int64]) -> Samples:
        """The samples with these ids, one row each, in the given order.

        Args:
            ids: sample ids in [0, num_samples), shape (samples,).
        """
        tokens = np.empty((len(ids), self.seq_len), dtype=self.dtype)
        first = np.asarray(ids, dtype=np.int64) * self.seq_len
        shard_of = np.searchsorted(self._first, first, side="right") - 1
        whole = first + self.seq_len <= self._first[shard_of + 1]
        starts = [np.empty(0, np.int64)]
        for index, rows in _groups(shard_of, np.flatnonzero(whole)):
            begins = first[rows] - self._first[index]
            starts.append(self._shard(index).copy_samples(begins, tokens, rows))
        for row in np.flatnonzero(~whole).tolist():
            starts += self._read_across(int(first[row]), int(shard_of[row]), tokens, row)
        return Samples(tokens, np.sort(np.concatenate(starts)))

    def _read_across(
        self, offset: int, index: int, out: NDArray[np.unsignedinteger], row: int
    ) -> list[NDArray[np.int64]]:
        """Copy one sample that begins in the shard `index` and ends in a later one.

        Returns where documents begin in it, as flat places in `out`.
        """
        done, starts = 0, []
        while done < self.seq_len:
            shard = self._shard(index)
            begin = offset + done - int(self._first[index])
            end = min(begin + self.seq_len - done, len(shard.tokens))
            out[row, done : done + end - begin] = shard.tokens[begin:end]
            starts.append(shard.starts_between(begin, end) + (row * self.seq_len + done - begin))
            done += end - begin
            index += 1
        return starts

    def _shard(self, index: int) -> _MappedShard:
        mapped = self._mapped.get(index)
        if mapped is None:
            shard = self._shards[index]
            held = remote.local_shard(self.corpus, shard)
            mapped = self._mapped[index] = _MappedShard(held, shard, self.dtype)
            if len(self._mapped) > MOST_MAPPED:  # the oldest goes, whoever used it last
                del self._mapped[next(iter(self._mapped))]
        return mapped


class _MappedShard:
    """One memory-mapped shard: its tokens as one array, its documents' first tokens."""

    def __init__(self, held: Held, shard: Shard, dtype: np.dtype[np.unsignedinteger]):
        self._held, path = held, held.path
        try:
            size = path.stat().st_size
        except OSError as error:
            raise CorpusError(f"{path}: can't be read: {error.strerror}") from None
        if size != shard.bytes:
            raise CorpusError(
                f"{path}: {size} bytes, but the manifest says {shard.bytes}; "
                "the shard is damaged: prepare the corpus again"
            )
        column = shard_table.read(path).column("tokens")
        # Mapped like the tokens: a copy in memory would add up over many shards.
        offsets = column.offsets.to_numpy()
        self._base, self._starts = int(offsets[0]), offsets[:-1]
        self.tokens = column.values.to_numpy()[self._base : int(offsets[-1])]
        if len(self.tokens) != shard.tokens or self.tokens.dtype != dtype:
            raise CorpusError(f"{path}: its content is not what the manifest says")

    def starts_between(self, begin: int, end: int) -> NDArray[np.int64]:
        """Offsets in [begin, end), within the shard, at which a document begins."""
        low, high = self._documents_before(np.array([begin, end]))
        found: NDArray[np.int64] = self._starts[low:high].astype(np.int64)
        found -= self._base
        return found

    def _documents_before(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many documents begin before each of some offsets within the shard."""
        # In the type of the starts, or NumPy would convert all of those at each call.
        found: NDArray[np.int64] = np.searchsorted(
            self._starts, (offsets + self._base).astype(self._starts.dtype)
        )
        return found

    def copy_samples(
        self, begins: NDArray[np.int64], out: NDArray[np.unsignedinteger], rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Copy samples that lie in this shard as a whole into the `rows` of `out`.

        Samples of one length are cut from one long sequence, so that all begin at the same
        remainder within a shard: it is looked at as a table whose rows they are.

        Args:
            begins: offsets within the shard of the samples, at least one, shape (samples,).
            out: shape (any, seq_len).
            rows: one a sample, shape (samples,).

        Returns where documents begin in them, as flat places in `out`.
        """
        seq_len = out.shape[1]
        lead = int(begins[0]) % seq_len
        count = (len(self.tokens) - lead) // seq_len
        table = self.tokens[lead : lead + count * seq_len].reshape(count, seq_len)
        for few in range(0, len(rows), ROWS_AT_ONCE):
            some = slice(few, few + ROWS_AT_ONCE)
            out[rows[some]] = table[begins[some] // seq_len]
        low = self._documents_before(begins)
        counts = self._documents_before(begins + seq_len) - low
        # Documents of all samples, end to end: from `low` on in each, `counts` of them.
        ends = np.cumsum(counts)
        documents = np.arange(ends[-1]) + np.repeat(low - (ends - counts), counts)
        moved: NDArray[np.int64] = np.repeat(rows * seq_len - begins - self._base, counts)
        moved += self._starts[documents]
        return moved


def _groups(
    shard_of: NDArray[np.int64], rows: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """The `rows` of each shard that has any: (index of the shard, its rows)."""
    if not len(rows):
        return
    rows = rows[np.argsort(shard_of[rows], kind="stable")]
    shards_there, begins = np.unique(shard_of[rows], return_index=True)
    yield from zip(shards_there.tolist(), np.split(rows, begins[1:]), strict=True)
