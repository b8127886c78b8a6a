"""What the stream costs beside a bare gather, as ratios: part of `smoke.py`."""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import random_corpus
import ray
from numpy.typing import NDArray
from ray._private.internal_api import node_stats
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from manta.cluster.session import ray_session
from manta.config.schedule import ScheduleSection
from manta.sample import shard_file
from manta.sample.tokens import document_tokens
from manta.schedule import Schedule
from manta.stream import pipeline, plan
from manta.stream.plan import Corpus, RankBatch

SEQ_LEN, BATCH = 2048, 8
TOKENS = 32 * 2**20  # of the corpus that is timed, in one shard
ROUND = 8 * 2**20  # tokens read in turn by the stream and by the gather
ROUNDS = 15
GATHERS = 16
OPENING_TOKENS = (
    pipeline.OPENING_TOKENS * pipeline.OPENING_BLOCKS
)  # of a stream, read in this process
RAY_TOKENS = 160 * 2**20  # of a pass by Ray
RAY_ROUNDS = 3
READING_SECONDS, RESTING_SECONDS = 3.0, 2.0
# Shards below a huge page (2 MiB), so that the kernel notes accesses by pages of 4 KiB.
SMALL_SHARDS, SMALL_SHARD_TOKENS, LONG_SEQ_LEN = 16, 700 * 1024, 32 * 1024


class NotHere(Exception):
    """This machine has not what a measurement needs."""


@contextmanager
def corpus_of(shard_count: int, shard_tokens: int, seq_len: int) -> Iterator[Corpus]:
    """A corpus of random uint16 tokens that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = random_corpus.write(
            Path(folder), shard_count=shard_count, shard_tokens=shard_tokens, vocab_size=50_000
        )
        yield plan.open_corpus(folder, manifest, "train", seq_len, seed=1)


def schedule_of(tokens: int, seq_len: int) -> Schedule:
    """Constant batches over so many tokens."""
    return Schedule.resolve(ScheduleSection(horizon=tokens, lr=1e-3, batch=BATCH), seq_len)


class Gather:
    """The limit: rows of a matrix that lies in a memory-mapped Arrow file, and nothing else."""

    def __init__(self, corpus: Corpus):
        tokens, _ = document_tokens(shard_file.read(Path(corpus.folder) / "train-00000.arrow"))
        rows = len(tokens) // corpus.seq_len
        self._matrix = tokens[: rows * corpus.seq_len].reshape(rows, corpus.seq_len)

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
        """The samples with these ids."""
        return self._matrix[ids]

    def seconds(self, ids: NDArray[np.int64]) -> float:
        """How long it takes to gather samples, batch by batch: the mean of GATHERS times.

        So often that it takes as long as the stream, and other processes disturb both alike.
        """
        began = time.perf_counter()
        for _ in range(GATHERS):
            for first in range(0, len(ids), BATCH):
                self.rows(ids[first : first + BATCH])
        return (time.perf_counter() - began) / GATHERS


def local_over_gather() -> float:
    """Tokens/s of `local_stream` over those of the gather of the same samples, in turn."""
    with corpus_of(1, TOKENS, SEQ_LEN) as corpus:
        gather, steps = Gather(corpus), ROUND // (BATCH * SEQ_LEN)
        stream = plan.local_stream(
            corpus, schedule_of((ROUNDS + 2) * ROUND, SEQ_LEN), cursor=0, rank=0, world_size=1
        )
        check_tokens(islice(stream, steps), gather)  # and maps what is read
        ratios = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            batches = list(islice(stream, steps))
            took = time.perf_counter() - began
            ids = np.concatenate([batch.ids for batch in batches])
            del batches
            ratios.append(gather.seconds(ids) / took)
        return statistics.median(ratios)


def check_tokens(batches: Iterator[RankBatch], gather: Gather) -> None:
    """Compare every token with what the gather has at the batch's ids.

    Raises:
        AssertionError: if one differs: a speed of wrong tokens means nothing.
    """
    for batch in batches:
        if not np.array_equal(batch.samples["tokens"], gather.rows(batch.ids)):
            raise AssertionError(f"step {batch.step.number}: the stream has other tokens")


# --------------------------------------------------------------- bytes read per token


def bytes_read_over_tokens() -> float:
    """Bytes of the corpus that are touched over those that the delivered tokens take.

    Touched is what the processor notes in the page table for each mapped page ("Referenced"
    in /proc/self/smaps, after /proc/self/clear_refs), so that neither the page cache nor
    read-ahead counts; and whatever is read by calls (rchar in /proc/self/io). A sample of 64
    KiB that does not begin with a page touches 17 pages: 1.06 is the least.
    """
    with corpus_of(SMALL_SHARDS, SMALL_SHARD_TOKENS, LONG_SEQ_LEN) as corpus:
        samples = plan.reader_of(corpus).num_samples
        plan.read_rows(corpus, np.arange(samples))  # an epoch, so that every page is mapped
        # Of the next epoch a part: whoever reads more than that touches other pages.
        positions = np.arange(samples, samples + samples // 4)
        _forget_accesses()
        before = _read_by_calls()
        plan.read_rows(corpus, positions)
        touched = _read_by_calls() - before + _referenced(corpus.folder)
        return touched / (len(positions) * LONG_SEQ_LEN * 2)


def _forget_accesses() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("1")
    except OSError as error:
        raise NotHere(f"only Linux counts accesses to mapped pages ({error})") from None


def _read_by_calls() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def _referenced(folder: str) -> int:
    """Bytes of mapped pages of the files in `folder` that were accessed since they were cleared."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
            ours = folder in line
        elif ours and line.startswith("Referenced:"):
            total += int(line.split()[1]) * 1024
    return total


# ------------------------------------------------------------------------- on Ray


@dataclass(frozen=True)
class OnRay:
    """What passes through the pipeline on a Ray of its own cost.

    Attributes:
        over_blank: tokens/s over those of as many blank ones that come by Ray Data alone, each in
            the middle of its passes.
        stored_over_tokens: bytes created in the object store over those of the delivered tokens.
        mapped: the share of batches whose tokens lie in the object store's memory itself.
        resting: cores that this process uses while nobody takes a batch and enough lies ahead.
    """

    over_blank: float
    stored_over_tokens: float
    mapped: float
    resting: float


@cache
def on_ray() -> OnRay:
    """Train on nothing: the pipeline's blocks from the first that Ray reads to the last."""
    # Else what reads would wait for whatever the machine does beside it, and this process not.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)
    with corpus_of(1, TOKENS, SEQ_LEN) as corpus, ray_session():
        stored, mapped = _stored(corpus)
        passes = [(_stream_pass(corpus), _blank_pass()) for _ in range(RAY_ROUNDS)]
        ours, blank = (statistics.median(seconds) for seconds in zip(*passes, strict=True))
        return OnRay(
            over_blank=blank / ours,
            stored_over_tokens=stored,
            mapped=mapped,
            resting=_at_rest(corpus),
        )


def _stream(corpus: Corpus) -> Generator[RankBatch, None, None]:
    """What is read in this process, and then RAY_TOKENS by Ray."""
    schedule = schedule_of(OPENING_TOKENS + RAY_TOKENS, SEQ_LEN)
    return pipeline.stream(corpus, schedule, cursor=0, rank=0, world_size=1)


def _stored(corpus: Corpus) -> tuple[float, float]:
    """Bytes stored over those delivered by Ray, and the share of its batches that lie there."""
    before, places = _bytes_created(), []

    def noted() -> Iterator[RankBatch]:
        for batch in _stream(corpus):
            places.append(batch.samples["tokens"].__array_interface__["data"][0])
            yield batch

    check_tokens(noted(), Gather(corpus))
    by_ray = places[-RAY_TOKENS // (BATCH * SEQ_LEN) :]
    return (_bytes_created() - before) / (RAY_TOKENS * 2), _share_stored(by_ray)


def _stream_pass(corpus: Corpus) -> float:
    """Seconds until the last batch has come."""
    began = time.perf_counter()
    for _ in _stream(corpus):
        pass
    return time.perf_counter() - began


def _at_rest(corpus: Corpus) -> float:
    """Processor time of this process by time, once reading may not go on."""
    with closing(_stream(corpus)) as batches:
        for _ in islice(batches, OPENING_TOKENS // (BATCH * SEQ_LEN) + 1):
            pass
        time.sleep(READING_SECONDS)
        began, used = time.perf_counter(), time.process_time()
        time.sleep(RESTING_SECONDS)
        return (time.process_time() - used) / (time.perf_counter() - began)


class _Blank(Datasource):  # type: ignore[misc]
    """As many blocks of as many bytes as the pipeline's, with nothing in them."""

    def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
        """One task a block."""
        size = plan.BLOCK_TOKENS * 2
        known = BlockMetadata(num_rows=size, size_bytes=size, input_files=None, exec_stats=None)
        task = ReadTask(lambda: [pa.table({"blank": np.zeros(size, np.uint8)})], known)
        return [task] * (RAY_TOKENS // plan.BLOCK_TOKENS)

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all blocks."""
        return RAY_TOKENS * 2


def _blank_pass() -> float:
    """Seconds until the last blank block has come, with Ray Data's own choice of everything."""
    began = time.perf_counter()
    for block in ray.data.read_datasource(_Blank()).iter_batches(batch_size=None):
        block["blank"][0]
    return time.perf_counter() - began


def _bytes_created() -> int:
    """Bytes of all objects ever created in this node's object store, by its own account.

    Internal to Ray, as `ray memory` has it: the State API lists only what is there now.
    """
    node = ray.nodes()[0]
    reply = node_stats(
        node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False
    )
    return int(reply.store_stats.cumulative_created_bytes)


def _share_stored(addresses: Sequence[int]) -> float:
    """How many of these lie in a mapping of the object store: an array there was not copied."""
    mappings = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "plasma" in line:
            low, high = line.split()[0].split("-")
            mappings.append((int(low, 16), int(high, 16)))
    return statistics.fmean(
        any(low <= address < high for low, high in mappings) for address in addresses
    )
