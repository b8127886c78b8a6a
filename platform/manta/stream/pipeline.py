"""The plan as a Ray Data stream: read tasks run ahead of the training, on the rank's node.

The first blocks, the *opening*, are read in the rank's own process, so that a start, above all a
restart after a failure, doesn't wait until Ray has processes for reading.

Each rank has datasets of its own, so that no coordinator stands between ranks and no
block crosses the network. One read task makes one block. A run is cut into *windows* of
blocks, one dataset each, because a dataset submits all its read tasks at its start; the next
window starts while the one before it is still being used.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import cycle, islice
from uuid import uuid4

import pyarrow as pa
import ray
from ray.data import DataContext, Dataset, ExecutionResources
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from manta.config.errors import MantaError, StreamError
from manta.schedule import Schedule
from manta.stream import plan
from manta.stream.pace import Pace
from manta.stream.plan import Block, Corpus, RankBatch, Span

# The opening of a stream, read without Ray: small blocks for a fast first batch, and together
# enough to train on while Ray Data starts. Ray Data takes CPU time to start, which the first steps
# after a restart need themselves, and then two actors, which a short run doesn't need. So it
# starts only when half of the opening is used up.
OPENING_TOKENS = 2**16
OPENING_BLOCKS = 64
# The first window is small, for a fast first batch; later ones grow to a size at which
# a dataset's own start (about 0.3 s) is negligible.
FIRST_WINDOW = 8
LARGEST_WINDOW = 512
# The next window starts this many blocks before the end of one, or in its middle: early enough to
# be ready in time, but no earlier, as blocks that it has read take memory beside this window's.
START_BEFORE = 8
# Planning takes 9 µs a step, in the process that trains: if steps are small, windows have fewer
# blocks, so that planning one doesn't take long.
WINDOW_STEPS = 2**15
# Bytes that may be read ahead for one rank. Without a bound Ray Data would fill the object store.
AHEAD_BYTES = 256 * 2**20
READERS = 2
# Column of a table that a read task returns instead of rows that can't be read: the error, pickled.
FAILURE = "manta.failure"


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
        """Bytes of all blocks, approximately."""
        return sum(self._bytes(block) for block in self._window)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """One task for each block of the plan, whatever parallelism is asked for."""
        return [self._task(block) for block in self._window]

    def _task(self, block: Block) -> ReadTask:
        metadata = BlockMetadata(
            num_rows=block.rows,
            size_bytes=self._bytes(block),
            input_files=None,
            exec_stats=None,
        )
        # Only spans are sent; the positions are computed in the read task.
        return ReadTask(partial(_read, self._corpus, block.spans), metadata)

    def _bytes(self, block: Block) -> int:
        return block.rows * plan.row_bytes(self._corpus)


def _read(corpus: Corpus, spans: list[Span]) -> list[pa.Table]:
    try:
        return [plan.read_rows(corpus, plan.positions_of(spans))]
    except MantaError as error:
        # Returned as a block, as Ray would wrap an exception into tracebacks and print them.
        return [pa.table({FAILURE: [pickle.dumps(error)]})]


def stream(
    corpus: Corpus, schedule: Schedule, *, cursor: int, rank: int, world_size: int
) -> Generator[RankBatch, None, None]:
    """The batches of one rank from the position `cursor` to the end of the run.

    To be called in the rank's own process. Reading begins at once, not at the first batch;
    closing the iterator stops it.

    Raises:
        StreamError: if the rows that arrive are not those of the plan.
        CorpusError: if a shard is missing or damaged.
    """
    small, large = (plan.as_large_as(corpus, size) for size in (OPENING_TOKENS, plan.BLOCK_TOKENS))

    def blocks(first: int, tokens: int) -> Iterator[Block]:
        return plan.blocks(schedule, first, rank, world_size, tokens, corpus.together)

    opening = list(islice(blocks(cursor, small), OPENING_BLOCKS))
    todo = blocks(_end(opening, cursor), large)
    return _chained(_Opening(corpus, opening), _Windows(corpus, todo))


def _end(blocks: list[Block], cursor: int) -> int:
    """The position after some blocks that begin at `cursor`."""
    if not blocks:
        return cursor
    last = blocks[-1].shares[-1].step
    return last.first_position + last.batch_size


def _chained(opening: _Opening, windows: _Windows) -> Generator[RankBatch, None, None]:
    with closing(windows), closing(opening):
        for index, batches in enumerate(opening.blocks()):
            if index == OPENING_BLOCKS // 2:
                windows.start()
            yield from batches
        yield from windows.batches()


class _Opening:
    """Blocks read in this process, two ahead of their use; reading begins at once."""

    def __init__(self, corpus: Corpus, blocks: list[Block]):
        self._corpus, self._blocks = corpus, blocks
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="manta-opening")
        self._coming = [self._submit(block) for block in blocks[:2]]

    def blocks(self) -> Generator[Iterator[RankBatch], None, None]:
        """For each block, its batches step by step."""
        for index, block in enumerate(self._blocks):
            table = self._coming.pop(0).result()
            self._coming += [self._submit(later) for later in self._blocks[index + 2 : index + 3]]
            yield plan.cut(block, table)

    def close(self) -> None:
        """Stop reading."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _submit(self, block: Block) -> Future[pa.Table]:
        if not block.rows:
            empty: Future[pa.Table] = Future()
            empty.set_result(plan.no_rows(self._corpus))
            return empty
        return self._reader.submit(plan.read_rows, self._corpus, plan.positions_of(block.spans))


class _Windows:
    """Reads one window after the other; the next one starts before the end of each."""

    def __init__(self, corpus: Corpus, todo: Iterator[Block]):
        self._corpus, self._todo = corpus, todo
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="manta-stream")
        self._coming: Future[_Window] | None = None
        # The head node keeps some hundred metrics of each dataset id for good, so windows share
        # two ids, as at most two windows are open at a time. (Each dataset's start adds three
        # more ids. Beyond 1,000 ids Ray may forget one in use until its next dataset.)
        self._ids = cycle([uuid4().hex, uuid4().hex])

    def start(self) -> None:
        """Begin to read; nothing if called again."""
        if self._coming is None:
            self._coming = self._start(FIRST_WINDOW)

    def batches(self) -> Generator[RankBatch, None, None]:
        """The windows' batches, step by step."""
        self.start()
        assert self._coming is not None
        size = FIRST_WINDOW
        while (window := self._coming.result()).blocks:
            with closing(window):
                for index, block in enumerate(window.blocks):
                    if index == max(len(window.blocks) // 2, len(window.blocks) - START_BEFORE):
                        size = min(2 * size, LARGEST_WINDOW)
                        self._coming = self._start(size)
                    table = window.table_of(block)
                    yield from plan.cut(block, table)
                window.finish()

    def close(self) -> None:
        """Stop reading, once a window that is being started has started."""
        self._starter.shutdown(wait=True)
        if self._coming is not None and self._coming.exception() is None:
            self._coming.result().close()

    def _start(self, size: int) -> Future[_Window]:
        dataset_id = next(self._ids)
        return self._starter.submit(lambda: _Window(self._corpus, self._planned(size), dataset_id))

    def _planned(self, size: int) -> list[Block]:
        """The next `size` blocks, or as many as have WINDOW_STEPS steps."""
        blocks: list[Block] = []
        steps = 0
        while len(blocks) < size and steps < WINDOW_STEPS and (block := next(self._todo, None)):
            blocks.append(block)
            steps += len(block.shares)
        return blocks


class _Window:
    """Blocks in order, and their rows as they arrive; made once its first rows have arrived."""

    def __init__(self, corpus: Corpus, blocks: list[Block], dataset_id: str):
        self.blocks, self._corpus = blocks, corpus
        with_rows = [block for block in blocks if block.rows]
        self._tables: Generator[pa.Table, None, None] = _read_ahead(corpus, with_rows, dataset_id)
        self._next = next(self._tables, None)

    def table_of(self, block: Block) -> pa.Table:
        """The rows of the next block; a block without rows is not read."""
        if not block.rows:
            return plan.no_rows(self._corpus)
        rows, self._next = self._next, None
        if rows is None and (rows := next(self._tables, None)) is None:
            raise StreamError(
                "Ray Data returned fewer blocks than were asked for: this is a defect of the "
                "stream, nothing was trained on it"
            )
        if FAILURE in rows.column_names:
            raise pickle.loads(rows.column(FAILURE)[0].as_py())
        return rows

    def finish(self) -> None:
        """Check that no block is left; to be called after the last one."""
        if self._next is not None or next(self._tables, None) is not None:
            raise StreamError(
                "Ray Data returned more blocks than were asked for: this is a defect of the "
                "stream, nothing was trained on it"
            )

    def close(self) -> None:
        """Stop reading."""
        self._tables.close()


def _read_ahead(
    corpus: Corpus, blocks: list[Block], dataset_id: str
) -> Generator[pa.Table, None, None]:
    """One table for each block; reading ends when the generator is closed.

    Blocks are fetched by reference, as `iter_batches` of Ray 2.60 leaves a thread behind when it
    is closed early. That is as fast: blocks are on this node, and are mapped, not copied.
    """
    if not blocks:
        return
    pace = Pace()
    with closing(pace):
        with pace.wanting():  # iter_internal_ref_bundles waits for the first block
            dataset = _dataset(corpus, blocks, pace, dataset_id)
            bundles = iter(dataset.iter_internal_ref_bundles())
        while True:
            with pace.wanting():
                bundle = next(bundles, None)
            if bundle is None:
                return
            for table in bundle.block_refs:
                yield ray.get(table)


def _dataset(corpus: Corpus, blocks: list[Block], pace: Pace, dataset_id: str) -> Dataset:
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # This logger would warn, amid the training's output, that progress bars are off.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    dataset = ray.data.read_datasource(
        PlanSource(corpus, blocks),
        override_num_blocks=len(blocks),
        # Workers hold the CPUs, so read tasks that asked for one would wait for ever.
        num_cpus=0,
        concurrency=min(READERS, len(blocks)),
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
    )
    dataset._set_uuid(dataset_id)  # internal to Ray 2.60; tests/stream/test_pipeline.py guards it
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = None  # don't split blocks, however large they are
    context.custom_execution_callback_classes = [pace.itself]
    # A block may be trained on for half an hour, during which nothing is read.
    context.execution_no_progress_timeout_s = -1
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=AHEAD_BYTES)
    return dataset
