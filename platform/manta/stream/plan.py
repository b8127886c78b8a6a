"""Which rows which rank gets in which step: the plan of a run, and its reading.

Index spaces: a *position* is a place in the global sample order; step `k` takes the
positions ``[P(k), P(k)+B(k))`` of the batch schedule, and rank `r` of `W` the part
``[P + ⌊r·B/W⌋, P + ⌊(r+1)·B/W⌋)`` of them, so that shares differ by at most one row at
any world size. A *block* is some consecutive steps of one rank: what is read at once.

The plan is a function of the cursor, made lazily: a run of ten million steps starts as
fast as one of ten, at its beginning or in its middle.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manta.config.errors import StreamError
from manta.corpus.manifest import Manifest, Split
from manta.sample.columns import Columns, from_arrow, sliced, to_arrow
from manta.sample.format import Format
from manta.schedule import Schedule, Step
from manta.stream.order import SampleOrder
from manta.stream.shards import ShardReader
from manta.stream.table import ShardTable

# Big enough that what Ray Data takes for a read task, about 45 ms from one to the next, is small
# beside its work (benchmarks/RESULTS.md), small enough that a few blocks ahead of each rank fit in
# any object store.
BLOCK_TOKENS = 16 * 2**20
BLOCK_STEPS = 1024
# Columns of a block beside those of the format.
POSITION, ID = "manta.position", "manta.id"
# What a list of varying length takes in a row: its bound, and some numbers.
LIST_BYTES = 8

Span = tuple[int, int]


@dataclass(frozen=True)
class Corpus:
    """One split of a prepared corpus, cut and ordered for a run. Small to pickle.

    Attributes:
        folder: path or URL.
        fingerprint: fingerprint of the corpus's manifest.
        split: name of the split.
        format: format of the samples.
        seq_len: length of a sample.
        seed: seed of the sample order.
    """

    folder: str
    fingerprint: str
    split: Split
    format: Format
    seq_len: int
    seed: int


@dataclass(frozen=True)
class Share:
    """The positions ``[first, end)`` that one rank takes in one step (maybe none)."""

    step: Step
    first: int
    end: int


@dataclass(frozen=True)
class Block:
    """The shares of one rank in consecutive steps."""

    shares: tuple[Share, ...]

    @property
    def rows(self) -> int:
        """Rows of the rank in the block."""
        return sum(mine.end - mine.first for mine in self.shares)

    @property
    def spans(self) -> list[Span]:
        """The positions of the block in order, as half-open spans."""
        return [(mine.first, mine.end) for mine in self.shares if mine.end > mine.first]


@dataclass(frozen=True)
class RankBatch:
    """What one rank feeds to the model in one step.

    Attributes:
        step: the step, its global batch size and learning rate.
        ids: sample ids as read from the corpus, shape (rows,); rows may be zero.
        samples: the columns of the corpus's format, `rows` samples in each.
    """

    step: Step
    ids: NDArray[np.int64]
    samples: Columns


def share(step: Step, rank: int, world_size: int) -> Share:
    """The part of `step` that is `rank`'s."""
    low = step.batch_size * rank // world_size
    high = step.batch_size * (rank + 1) // world_size
    return Share(step, step.first_position + low, step.first_position + high)


def blocks(
    schedule: Schedule, cursor: int, rank: int, world_size: int, block_tokens: int | None = None
) -> Iterator[Block]:
    """The blocks of one rank from the position `cursor` to the end of the run.

    A block ends with the step in which it reaches `block_tokens` (by default BLOCK_TOKENS).

    Raises:
        RunError: if no step begins at the cursor.
    """
    most_tokens = block_tokens or BLOCK_TOKENS
    if cursor >= schedule.positions:
        return
    first_step = schedule.step_at(cursor).step
    shares: list[Share] = []
    rows = 0
    for number in range(first_step, schedule.steps):
        mine = share(schedule.step(number), rank, world_size)
        shares.append(mine)
        rows += mine.end - mine.first
        if rows * schedule.seq_len >= most_tokens or len(shares) == BLOCK_STEPS:
            yield Block(tuple(shares))
            shares, rows = [], 0
    if shares:
        yield Block(tuple(shares))


def local_stream(
    corpus: Corpus, schedule: Schedule, *, cursor: int, rank: int, world_size: int
) -> Generator[RankBatch, None, None]:
    """The batches of one rank read in this very process: for running without Ray."""
    most_tokens = as_large_as(corpus, BLOCK_TOKENS)
    for block in blocks(schedule, cursor, rank, world_size, most_tokens):
        yield from cut(block, read_rows(corpus, positions_of(block.spans)))


@lru_cache(maxsize=8)
def _open(corpus: Corpus) -> tuple[ShardReader, SampleOrder]:
    """Reader and order of a corpus, once a process: the manifest may be large."""
    table = ShardTable.on_node(corpus.folder, corpus.fingerprint, corpus.split)
    reader = ShardReader(corpus.folder, table, corpus.format, corpus.seq_len)
    key = f"{corpus.fingerprint}/{corpus.split}"
    return reader, SampleOrder(key=key, seed=corpus.seed, num_samples=reader.num_samples)


def open_corpus(
    folder: str,
    manifest: Manifest,
    split: Split,
    seq_len: int,
    seed: int,
    form: Format | None = None,
) -> Corpus:
    """Name a split for a run, and check that it holds at least one sample.

    Args:
        folder: path or URL.
        manifest: the corpus's manifest.
        split: name of the split.
        seq_len: length of a sample.
        seed: seed of the sample order.
        form: format of the samples; by default tokens.

    Raises:
        CorpusError: if it does not, or a shard can't be mapped.
    """
    form = form or manifest.format_of_samples
    corpus = Corpus(folder, manifest.fingerprint, split, form, seq_len, seed)
    _open(corpus)
    return corpus


def reader_of(corpus: Corpus) -> ShardReader:
    """The reader of a corpus, shared within the process."""
    return _open(corpus)[0]


def order_of(corpus: Corpus) -> SampleOrder:
    """The sample order of a corpus, shared within the process."""
    return _open(corpus)[1]


def positions_of(spans: list[Span]) -> NDArray[np.int64]:
    """All positions in half-open `spans`, in order, shape (rows,)."""
    ranges = [np.arange(first, end, dtype=np.int64) for first, end in spans]
    return np.concatenate([np.empty(0, np.int64), *ranges])


def read_rows(corpus: Corpus, positions: NDArray[np.int64]) -> pa.Table:
    """The rows at these positions: their POSITION and ID, and the columns of the format."""
    reader, order = _open(corpus)
    ids = order.ids_at(positions)
    columns = {name: to_arrow(column) for name, column in reader.read(ids).items()}
    return pa.table({POSITION: positions, ID: ids, **columns})


@lru_cache(maxsize=8)
def no_rows(corpus: Corpus) -> pa.Table:
    """A table without rows."""
    return read_rows(corpus, np.empty(0, np.int64))


def row_bytes(corpus: Corpus) -> int:
    """What a row of a block takes, without what its lists of varying length hold."""
    return sum(map(_width, no_rows(corpus).schema.types))


def as_large_as(corpus: Corpus, tokens: int) -> int:
    """So much on the clock of a corpus as takes the bytes of so many tokens of uint16."""
    schema = no_rows(corpus).schema
    fixed = [field.type for field in schema if field.name not in (POSITION, ID)]
    row = sum(_width(kind) for kind in fixed if not pa.types.is_list(kind))
    return -(-2 * tokens // max(1, row)) * corpus.format.clock(corpus.seq_len)


def _width(kind: pa.DataType) -> int:
    """Bytes of one value of an Arrow type."""
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    return LIST_BYTES if pa.types.is_list(kind) else -(-int(kind.bit_width) // 8)


def cut(block: Block, table: pa.Table) -> Generator[RankBatch, None, None]:
    """A block's rows, step by step, checked against the plan.

    Raises:
        StreamError: if the rows are not those that the block asks for, in its order.
    """
    expected = positions_of(block.spans)
    got = table.column(POSITION).to_numpy()
    if not np.array_equal(got, expected):
        raise StreamError(_difference(expected, got))
    ids = table.column(ID).to_numpy()
    names = [name for name in table.column_names if name not in (POSITION, ID)]
    columns = {name: from_arrow(_one(table, name)) for name in names}
    row = 0
    for mine in block.shares:
        end = row + mine.end - mine.first
        yield RankBatch(mine.step, ids[row:end], sliced(columns, slice(row, end)))
        row = end


def _one(table: pa.Table, column: str) -> pa.Array:
    """A column as a single array; without a copy where it is one already."""
    chunks = table.column(column)
    return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()


def _difference(expected: NDArray[np.int64], got: NDArray[np.int64]) -> str:
    shorter = min(len(expected), len(got))
    differs = np.flatnonzero(expected[:shorter] != got[:shorter])
    place = int(differs[0]) if len(differs) else shorter
    want = int(expected[place]) if place < len(expected) else "no more rows"
    have = int(got[place]) if place < len(got) else "nothing"
    return (
        f"the stream delivered position {have} where the plan has {want} (row {place} of a block "
        f"of {len(expected)}): this is a defect of the stream, nothing was trained on it"
    )
