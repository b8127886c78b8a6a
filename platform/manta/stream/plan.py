"""The plan of a run: which rows which rank gets in which step, and how they are read.

Index spaces: a *position* is an index into the global sample order; step `k` takes the
positions ``[P(k), P(k)+B(k))`` of the batch schedule, and rank `r` of `W` the part
``[P + ⌊r·B/W⌋, P + ⌊(r+1)·B/W⌋)`` of them, so that shares differ by at most one row at
any world size. Where rows stay together in micro-batches, shares are counted in these. A *block*
is some consecutive steps of one rank, which are read at once.

The plan is a function of the cursor and computed lazily: a run of ten million steps starts as
fast as one of ten, at its first step or any other.
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
from manta.stream.mixed_sources import Mixed
from manta.stream.order import Order, SampleOrder, order_key
from manta.stream.shards import ShardReader
from manta.stream.table import ShardTable

# Large enough that Ray Data's own 45 ms for each read task are small beside the reading
# (benchmarks/RESULTS.md), small enough that a few blocks for each rank fit into any object store.
BLOCK_TOKENS = 16 * 2**20
BLOCK_STEPS = 1024
# Columns of a block beside those of the format.
POSITION, ID = "manta.position", "manta.id"
# Assumed bytes of a list of varying length in a row: its offset, and some numbers.
LIST_BYTES = 8

Span = tuple[int, int]


@dataclass(frozen=True)
class Corpus:
    """One split of a prepared corpus, cut into samples and ordered for a run; small to pickle.

    Attributes:
        folder: path or URL.
        fingerprint: fingerprint of the corpus's manifest.
        split: name of the split.
        format: format of the samples.
        seq_len: length of a sample.
        seed: seed of the sample order.
        together: rows of a step, from its first, that one rank takes together: a micro-batch.
        mixed: the mixture of the corpus's sources; None if each sample comes once an epoch.
    """

    folder: str
    fingerprint: str
    split: Split
    format: Format
    seq_len: int
    seed: int
    together: int = 1
    mixed: Mixed | None = None


@dataclass(frozen=True)
class Share:
    """The positions ``[first, end)`` that one rank takes in one step; they may be none."""

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
        """The positions of the block in order, as half-open intervals."""
        return [(mine.first, mine.end) for mine in self.shares if mine.end > mine.first]


@dataclass(frozen=True)
class RankBatch:
    """The samples of one rank in one step.

    Attributes:
        step: the step, its global batch size and learning rate.
        ids: ids of the samples, shape (rows,); there may be no rows.
        samples: the columns of the corpus's format, `rows` samples in each.
    """

    step: Step
    ids: NDArray[np.int64]
    samples: Columns


def share(step: Step, rank: int, world_size: int, together: int = 1) -> Share:
    """The share of one rank in a step; `together` rows, from its first, are one rank's."""
    parts = -(-step.batch_size // together)
    ends = (parts * each // world_size * together for each in (rank, rank + 1))
    low, high = (min(end, step.batch_size) for end in ends)
    return Share(step, step.first_position + low, step.first_position + high)


def blocks(
    schedule: Schedule,
    cursor: int,
    rank: int,
    world_size: int,
    block_tokens: int | None = None,
    together: int = 1,
) -> Iterator[Block]:
    """The blocks of one rank from the position `cursor` to the end of the run.

    A block ends with the step in which it reaches `block_tokens` (by default BLOCK_TOKENS);
    `together` rows of a step are one rank's.

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
        mine = share(schedule.step(number), rank, world_size, together)
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
    """The batches of one rank, read in this process, to train without Ray."""
    most_tokens = as_large_as(corpus, BLOCK_TOKENS)
    for block in blocks(schedule, cursor, rank, world_size, most_tokens, corpus.together):
        yield from cut(block, read_rows(corpus, positions_of(block.spans)))


def first_steps(corpus: Corpus, schedule: Schedule) -> Iterator[RankBatch]:
    """Whole batches from a run's first one on, read a step at a time."""
    for block in blocks(schedule, 0, 0, 1, 1, corpus.together):
        yield from cut(block, read_rows(corpus, positions_of(block.spans)))


@lru_cache(maxsize=8)
def _open(corpus: Corpus) -> tuple[ShardReader, Order]:
    """Reader and order of a corpus, made once a process, as the manifest may be large."""
    table = ShardTable.on_node(corpus.folder, corpus.fingerprint, corpus.split)
    reader = ShardReader(corpus.folder, table, corpus.format, corpus.seq_len)
    key = order_key(corpus.fingerprint, corpus.split)
    if corpus.mixed is not None:
        return reader, corpus.mixed.order(key, corpus.seed)
    return reader, SampleOrder(key=key, seed=corpus.seed, num_samples=reader.num_samples)


def open_corpus(
    folder: str,
    manifest: Manifest,
    split: Split,
    seq_len: int,
    seed: int,
    form: Format | None = None,
    together: int = 1,
    mixed: Mixed | None = None,
) -> Corpus:
    """A split for a run, once it is checked to have at least one sample.

    Args:
        folder: path or URL.
        manifest: the corpus's manifest.
        split: name of the split.
        seq_len: length of a sample.
        seed: seed of the sample order.
        form: format of the samples; by default tokens.
        together: rows of a step, from its first, that one rank takes together.
        mixed: the mixture of its sources; by default each sample comes once an epoch.

    Raises:
        CorpusError: if it has no sample, or a shard can't be mapped.
    """
    form = form or manifest.format_of_samples
    corpus = Corpus(folder, manifest.fingerprint, split, form, seq_len, seed, together, mixed)
    _open(corpus)
    return corpus


def reader_of(corpus: Corpus) -> ShardReader:
    """The reader of a corpus, shared within the process."""
    return _open(corpus)[0]


def order_of(corpus: Corpus) -> Order:
    """The sample order of a corpus, shared within the process."""
    return _open(corpus)[1]


def positions_of(spans: list[Span]) -> NDArray[np.int64]:
    """All positions in the half-open intervals `spans`, in order: shape (rows,)."""
    ranges = [np.arange(first, end, dtype=np.int64) for first, end in spans]
    return np.concatenate([np.empty(0, np.int64), *ranges])


def read_rows(corpus: Corpus, positions: NDArray[np.int64]) -> pa.Table:
    """The rows at these positions: columns POSITION and ID, and those of the format."""
    reader, order = _open(corpus)
    ids = order.ids_at(positions)
    columns = {name: to_arrow(column) for name, column in reader.read(ids).items()}
    return pa.table({POSITION: positions, ID: ids, **columns})


@lru_cache(maxsize=8)
def no_rows(corpus: Corpus) -> pa.Table:
    """A table without rows."""
    return read_rows(corpus, np.empty(0, np.int64))


def row_bytes(corpus: Corpus) -> int:
    """Bytes of a row of a block, with `LIST_BYTES` for each list of varying length."""
    return sum(map(_width, no_rows(corpus).schema.types))


def as_large_as(corpus: Corpus, tokens: int) -> int:
    """Number of tokens on a corpus's clock that take as many bytes as `tokens` tokens of uint16."""
    schema = no_rows(corpus).schema
    fixed = [field.type for field in schema if field.name not in (POSITION, ID)]
    row = sum(_width(each) for each in fixed if not pa.types.is_list(each))
    return -(-2 * tokens // max(1, row)) * corpus.format.clock(corpus.seq_len)


def _width(type_: pa.DataType) -> int:
    """Bytes of one value of an Arrow type."""
    if pa.types.is_fixed_size_list(type_):
        return int(type_.list_size) * _width(type_.value_type)
    return LIST_BYTES if pa.types.is_list(type_) else -(-int(type_.bit_width) // 8)


def cut(block: Block, table: pa.Table) -> Generator[RankBatch, None, None]:
    """A block's rows as batches, step by step, checked against the plan.

    Raises:
        StreamError: if the rows are not those of the block, in its order.
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
    """A column as a single array, without a copy if it has a single chunk."""
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
