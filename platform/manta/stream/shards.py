"""Sample id → tokens, by memory map.

Index spaces: a *token offset* counts tokens from the start of a split (its shards laid
end to end in the manifest's order); sample `i` covers the token offsets
``[i·seq_len, (i+1)·seq_len)``. What is left over at the end of a split is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manta.config.errors import CorpusError
from manta.corpus import remote, shards
from manta.corpus.manifest import Manifest, Shard, Split
from manta.storage.cache import Held


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

    def __init__(self, corpus: str | Path, manifest: Manifest, split: Split, seq_len: int):
        self.corpus = str(corpus)
        self.seq_len = seq_len
        self.dtype = np.dtype(manifest.token_dtype)
        self._shards = manifest.shards_of(split)
        self._first = np.cumsum([0, *(shard.tokens for shard in self._shards)], dtype=np.int64)
        self.num_samples = int(self._first[-1]) // seq_len
        self._mapped: dict[int, _MappedShard] = {}
        if self.num_samples == 0:
            raise CorpusError(
                f"{self.corpus}: the {split} split has {int(self._first[-1])} tokens, less than "
                f"one sample of train.seq_len = {seq_len}"
            )

    def read(self, ids: NDArray[np.int64]) -> Samples:
        """The samples with these ids, one row each, in the given order.

        Args:
            ids: sample ids in [0, num_samples), shape (samples,).
        """
        tokens = np.empty((len(ids), self.seq_len), dtype=self.dtype)
        starts: list[NDArray[np.int64]] = []
        for row, sample in enumerate(ids.tolist()):
            self._read_one(sample * self.seq_len, tokens[row], row * self.seq_len, starts)
        return Samples(tokens, np.concatenate(starts) if starts else np.empty(0, np.int64))

    def _read_one(
        self,
        offset: int,
        out: NDArray[np.unsignedinteger],
        place: int,
        starts: list[NDArray[np.int64]],
    ) -> None:
        """Copy one sample from the shards it lies in, noting document starts."""
        index = int(np.searchsorted(self._first, offset, side="right")) - 1
        done = 0
        while done < self.seq_len:
            shard = self._shard(index)
            begin = offset + done - int(self._first[index])
            end = min(begin + self.seq_len - done, len(shard.tokens))
            out[done : done + end - begin] = shard.tokens[begin:end]
            here = shard.starts_between(begin, end)
            if len(here):
                starts.append(here + (place + done - begin))
            done += end - begin
            index += 1

    def _shard(self, index: int) -> _MappedShard:
        mapped = self._mapped.get(index)
        if mapped is None:
            shard = self._shards[index]
            held = remote.local_shard(self.corpus, shard)
            mapped = self._mapped[index] = _MappedShard(held, shard, self.dtype)
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
        self.tokens, ends = shards.document_tokens(shards.read(path))
        self._starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        if len(self.tokens) != shard.tokens or self.tokens.dtype != dtype:
            raise CorpusError(f"{path}: its content is not what the manifest says")

    def starts_between(self, begin: int, end: int) -> NDArray[np.int64]:
        """Offsets in [begin, end), within the shard, at which a document begins."""
        low, high = np.searchsorted(self._starts, (begin, end))
        found: NDArray[np.int64] = self._starts[low:high]
        return found
