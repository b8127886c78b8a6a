"""The plan as a Ray Data stream: read tasks ahead of the training, on the rank's node.

Each rank has datasets of its own, so that no coordinator stands between ranks and no
block crosses the network. One read task makes one block. A run is cut into *windows* of
blocks, one dataset each, because a dataset submits all its read tasks up front; the next
window starts while the last one is still being used.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice

import pyarrow as pa
import ray
from ray.data import DataContext, Dataset, ExecutionResources
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from manta.config.errors import MantaError, StreamError
from manta.schedule import Schedule
from manta.stream import plan
from manta.stream.plan import Block, Corpus, RankBatch, Span

# The first window is small, for a fast first batch; later ones grow to a size at which
# a dataset's own start (about 0.3 s) is nothing beside its work.
FIRST_WINDOW = 8
LARGEST_WINDOW = 512
# How far reading may run ahead of one rank. Ray Data would fill the object store.
AHEAD_BYTES = 256 * 2**20
READERS = 2
# The column of a block that holds, instead of rows, why they could not be read.
FAILURE = "failure"


class PlanSource(Datasource):  # type: ignore[misc]
    """Read tasks for some blocks of a plan, one task a block, in order."""

    def __init__(self, corpus: Corpus, window: list[Block]):
        super().__init__()
        self._corpus = corpus
        self._window = window

    def get_name(self) -> str:
        """The name that Ray shows for the read."""
        return "MantaPlan"

    def estimate_inmemory_data_size(self) -> int | None:
        """Bytes of all blocks, about."""
        return sum(self._bytes(block) for block in self._window)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """One task a block, whatever parallelism is asked for: blocks are the plan."""
        return [self._task(block) for block in self._window]

    def _task(self, block: Block) -> ReadTask:
        metadata = BlockMetadata(
            num_rows=block.rows,
            size_bytes=self._bytes(block),
            input_files=None,
            exec_stats=None,
        )
        # Only spans travel; positions are made where they are read.
        return ReadTask(partial(_read, self._corpus, block.spans), metadata)

    def _bytes(self, block: Block) -> int:
        return block.rows * (2 * self._corpus.seq_len + 24)


def _read(corpus: Corpus, spans: list[Span]) -> list[pa.Table]:
    try:
        return [plan.read_rows(corpus, plan.positions_of(spans))]
    except MantaError as error:
        # As a block of its own: Ray would wrap an exception into tracebacks and print them.
        return [pa.table({FAILURE: [pickle.dumps(error)]})]


def stream(
    corpus: Corpus, schedule: Schedule, *, cursor: int, rank: int, world_size: int
) -> Generator[RankBatch, None, None]:
    """The batches of one rank from the position `cursor` to the end of the run.

    To be called in the process of the rank, on its node. Reading begins at once, not at
    the first batch; closing the iterator stops it.

    Raises:
        StreamError: if what arrives is not what the plan says.
        CorpusError: if a shard is missing or damaged.
    """
    todo = plan.blocks(schedule, cursor, rank, world_size)
    starter = ThreadPoolExecutor(1, thread_name_prefix="manta-stream")
    first = starter.submit(_Window, corpus, list(islice(todo, FIRST_WINDOW)))
    return _batches(corpus, todo, starter, first)


def _batches(
    corpus: Corpus, todo: Iterator[Block], starter: ThreadPoolExecutor, coming: Future[_Window]
) -> Generator[RankBatch, None, None]:
    """Window after window; the next one starts in the middle of each."""
    size = FIRST_WINDOW
    try:
        while (window := coming.result()).blocks:
            with closing(window):
                for index, block in enumerate(window.blocks):
                    if index == len(window.blocks) // 2:
                        size = min(2 * size, LARGEST_WINDOW)
                        coming = starter.submit(_Window, corpus, list(islice(todo, size)))
                    yield from plan.cut(block, window.table_of(block), corpus.seq_len)
                window.finish()
    finally:
        # A window that is just being started can be closed only once it has been.
        starter.shutdown(wait=True)
        if coming.exception() is None:
            coming.result().close()


class _Window:
    """Blocks in order, and their rows as they arrive. Its first rows are here when it is made."""

    def __init__(self, corpus: Corpus, blocks: list[Block]):
        self.blocks = blocks
        with_rows = [block for block in blocks if block.rows]
        self._tables: Generator[pa.Table, None, None] = _read_ahead(corpus, with_rows)
        self._next = next(self._tables, None)

    def table_of(self, block: Block) -> pa.Table:
        """The next block's rows. A block without rows is not read, so none arrives."""
        if not block.rows:
            return plan.NO_ROWS
        rows, self._next = self._next, None
        if rows is None and (rows := next(self._tables, None)) is None:
            raise StreamError("the stream ended before its plan did")
        if FAILURE in rows.column_names:
            raise pickle.loads(rows.column(FAILURE)[0].as_py())
        return rows

    def finish(self) -> None:
        """To be called after the last block."""
        if self._next is not None or next(self._tables, None) is not None:
            raise StreamError("the stream went on after its plan had ended")

    def close(self) -> None:
        """Stop reading."""
        self._tables.close()


def _read_ahead(corpus: Corpus, blocks: list[Block]) -> Generator[pa.Table, None, None]:
    """One table a block; reading begins at the first and ends when the generator is closed.

    By references, because `iter_batches` of Ray 2.60, closed before its end, leaves a thread
    behind. Nothing is lost by it: blocks are on this node, and are mapped, not copied.
    """
    if blocks:
        for bundle in _dataset(corpus, blocks).iter_internal_ref_bundles():
            for table in bundle.block_refs:
                yield ray.get(table)


def _dataset(corpus: Corpus, blocks: list[Block]) -> Dataset:
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns, in the middle of the training's output, that progress bars are off, as we ask.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    dataset = ray.data.read_datasource(
        PlanSource(corpus, blocks),
        override_num_blocks=len(blocks),
        # Training holds the CPUs: reading asks for none, or it would wait for ever.
        num_cpus=0,
        concurrency=min(READERS, len(blocks)),
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
    )
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = None  # a block is never split, however large its step
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=AHEAD_BYTES)
    return dataset
