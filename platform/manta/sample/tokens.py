"""Text as tokens: a sample is a window of `length` tokens, documents laid end to end.

A row of a shard is one document: ``tokens`` (list of uint16 or uint32, EOS last). The shards of a
split, in the manifest's order, are one long sequence. A *token offset* counts tokens from its
start; sample `i` covers the token offsets ``[i·length, (i+1)·length)``. What is left over at the
end of a split is not used.

Columns of a batch: ``tokens`` (samples, length), in the corpus's type, and ``starts``, ragged: the
places in each sample, ascending, at which a document begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manta.sample import shard_file
from manta.sample.columns import Columns, Ragged, to_arrow
from manta.sample.format import OpenShards, SplitSize

TokenDtype = Literal["uint16", "uint32"]
Ints = NDArray[np.int64]
# Rows gathered aside before they are put in place: about 1 MB, so that they stay in a cache.
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Tokens:
    """The format of windows of tokens.

    Attributes:
        dtype: NumPy type of the tokens.
    """

    dtype: TokenDtype
    name: ClassVar[str] = "tokens"

    @property
    def schema(self) -> pa.Schema:
        """Of a shard, beside doc_id and source."""
        return pa.schema([("tokens", token_list(self.dtype))])

    def count(self, split: SplitSize, length: int) -> int:
        """Whole windows in a split."""
        return split.tokens // length

    def clock(self, length: int) -> int:
        """The tokens of a sample."""
        return length

    def read(self, shards: OpenShards, ids: NDArray[Any]) -> Columns:
        """The columns ``tokens`` and ``starts`` of some samples."""
        length, bounds = shards.length, shards.token_bounds
        tokens = np.empty((len(ids), length), dtype=self.dtype)
        first = np.asarray(ids, dtype=np.int64) * length
        shard_of = np.searchsorted(bounds, first, side="right") - 1
        whole = first + length <= bounds[shard_of + 1]
        starts = [np.empty(0, np.int64)]
        for index, rows in _groups(shard_of, np.flatnonzero(whole)):
            begins = first[rows] - bounds[index]
            starts.append(self._shard(shards, index).copy_samples(begins, tokens, rows))
        for row in np.flatnonzero(~whole).tolist():
            starts += self._read_across(shards, int(first[row]), int(shard_of[row]), tokens, row)
        flat = np.sort(np.concatenate(starts))
        ends = np.searchsorted(flat, np.arange(len(ids) + 1) * length)
        within = (flat % length).astype(np.int32)
        return {"tokens": tokens, "starts": Ragged(within, ends.astype(np.int32))}

    def _read_across(
        self,
        shards: OpenShards,
        offset: int,
        index: int,
        out: NDArray[np.unsignedinteger],
        row: int,
    ) -> list[Ints]:
        """Copy one sample that begins in the shard `index` and ends in a later one.

        Returns where documents begin in it, as flat places in `out`.
        """
        done, starts, length = 0, [], shards.length
        while done < length:
            shard = self._shard(shards, index)
            begin = offset + done - int(shards.token_bounds[index])
            end = min(begin + length - done, len(shard.tokens))
            out[row, done : done + end - begin] = shard.tokens[begin:end]
            starts.append(shard.starts_between(begin, end) + (row * length + done - begin))
            done += end - begin
            index += 1
        return starts

    def _shard(self, shards: OpenShards, index: int) -> _TokenShard:
        def make(table: Any) -> _TokenShard:
            first, end = shards.token_bounds[index : index + 2].tolist()
            return _TokenShard(table, self.dtype, end - first)

        return shards.view(index, make)


def flat_starts(columns: Columns) -> Ints:
    """Where documents begin, as flat places ``row·length + column`` in the tokens, ascending."""
    starts: Ragged = columns["starts"]
    rows = np.repeat(np.arange(len(starts), dtype=np.int64), starts.lengths)
    flat: Ints = starts.flat + rows * columns["tokens"].shape[1]
    return flat


def in_pieces(columns: Columns, pieces: int) -> Columns:
    """Samples cut into equal pieces, each a sample of its own: tokens (samples · pieces, length).

    Raises:
        ValueError: if the length is no multiple of `pieces`.
    """
    if pieces == 1:
        return columns
    samples, length = columns["tokens"].shape
    tokens, flat = columns["tokens"].reshape(samples * pieces, -1), flat_starts(columns)
    if length % pieces:
        raise ValueError(f"samples of {length} tokens can't be cut into {pieces} pieces")
    ends = np.searchsorted(flat, np.arange(len(tokens) + 1) * tokens.shape[1])
    within = (flat % tokens.shape[1]).astype(np.int32)
    return {**columns, "tokens": tokens, "starts": Ragged(within, ends.astype(np.int32))}


def position_ids(columns: Columns) -> Ints:
    """Positions that restart at each document and each sample: (samples, length)."""
    rows, length = columns["tokens"].shape
    here = np.arange(rows * length, dtype=np.int64)
    begins = np.zeros(rows * length, dtype=np.int64)
    begins[::length] = here[::length]
    starts = flat_starts(columns)
    begins[starts] = starts
    return (here - np.maximum.accumulate(begins)).reshape(rows, length)


# ------------------------------------------------------------------------------- a shard's table


def token_dtype(vocab_size: int) -> TokenDtype:
    """The narrower type that holds every token id below `vocab_size`."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def token_list(dtype: TokenDtype) -> pa.DataType:
    """The Arrow type of a list of tokens."""
    return pa.list_(pa.from_numpy_dtype(np.dtype(dtype)))


def tokens_array(tokens: Sequence[NDArray[np.unsignedinteger]], dtype: TokenDtype) -> pa.Array:
    """Arrays of tokens as one Arrow array, a list for each."""
    bounds = np.cumsum([0, *map(len, tokens)], dtype=np.int32)
    values = np.concatenate(tokens, dtype=dtype) if tokens else np.empty(0, dtype)
    return to_arrow(Ragged(values, bounds))


def documents_batch(
    tokens: Sequence[NDArray[np.unsignedinteger]],
    doc_ids: Sequence[str],
    source: int,
    sources: Sequence[str],
    dtype: TokenDtype,
) -> Any:
    """A record batch of documents of one source.

    Args:
        tokens: one array for each document.
        doc_ids: one id for each document: its content hash in hexadecimal.
        source: index in `sources` of the documents' source.
        sources: names of all sources of the corpus.
        dtype: NumPy type of the tokens.
    """
    return shard_file.batch(
        [tokens_array(tokens, dtype)], doc_ids, source, sources, Tokens(dtype).schema
    )


def document_tokens(table: Any) -> tuple[NDArray[np.unsignedinteger], Ints]:
    """All tokens of a shard as one array, and where each document ends in it (exclusive)."""
    column = table.column("tokens")
    offsets = column.offsets.to_numpy().astype(np.int64)
    return column.values.to_numpy()[offsets[0] : offsets[-1]], offsets[1:] - offsets[0]


class _TokenShard:
    """One memory-mapped shard: its tokens as one array, its documents' first tokens."""

    def __init__(self, table: Any, dtype: TokenDtype, tokens: int):
        column = table.column("tokens")
        # Mapped like the tokens: a copy in memory would add up over many shards.
        offsets = column.offsets.to_numpy()
        self._base, self._starts = int(offsets[0]), offsets[:-1]
        self.tokens = column.values.to_numpy()[self._base : int(offsets[-1])]
        if len(self.tokens) != tokens or self.tokens.dtype != dtype:
            raise ValueError(f"{len(self.tokens)} tokens of {self.tokens.dtype}")

    def starts_between(self, begin: int, end: int) -> Ints:
        """Offsets in [begin, end), within the shard, at which a document begins."""
        low, high = self._documents_before(np.array([begin, end]))
        found: Ints = self._starts[low:high].astype(np.int64)
        found -= self._base
        return found

    def _documents_before(self, offsets: Ints) -> Ints:
        """How many documents begin before each of some offsets within the shard."""
        # In the type of the starts, or NumPy would convert all of those at each call.
        found: Ints = np.searchsorted(
            self._starts, (offsets + self._base).astype(self._starts.dtype)
        )
        return found

    def copy_samples(self, begins: Ints, out: NDArray[np.unsignedinteger], rows: Ints) -> Ints:
        """Copy samples that lie in this shard as a whole into the `rows` of `out`.

        Samples of one length are cut from one long sequence, so that all begin at the same
        remainder within a shard: it is looked at as a table whose rows they are.

        Args:
            begins: offsets within the shard of the samples, at least one, shape (samples,).
            out: shape (any, length).
            rows: one row for each sample, shape (samples,).

        Returns where documents begin in them, as flat places in `out`.
        """
        length = out.shape[1]
        lead = int(begins[0]) % length
        count = (len(self.tokens) - lead) // length
        table = self.tokens[lead : lead + count * length].reshape(count, length)
        for few in range(0, len(rows), ROWS_AT_ONCE):
            some = slice(few, few + ROWS_AT_ONCE)
            out[rows[some]] = table[begins[some] // length]
        low = self._documents_before(begins)
        counts = self._documents_before(begins + length) - low
        # Documents of all samples, end to end: from `low` on in each, `counts` of them.
        ends = np.cumsum(counts)
        documents = np.arange(ends[-1]) + np.repeat(low - (ends - counts), counts)
        moved: Ints = np.repeat(rows * length - begins - self._base, counts)
        moved += self._starts[documents]
        return moved


def _groups(shard_of: Ints, rows: Ints) -> Iterator[tuple[int, Ints]]:
    """The `rows` of each shard that has any: (index of the shard, its rows)."""
    if not len(rows):
        return
    rows = rows[np.argsort(shard_of[rows], kind="stable")]
    shards_there, begins = np.unique(shard_of[rows], return_index=True)
    yield from zip(shards_there.tolist(), np.split(rows, begins[1:]), strict=True)
