"""The ways to read that `data.py` compares: each gives int64 batches, and maybe goes on later.

An opener takes a `Place` and returns a `Reading`. It is given the global batch's share of its
rank and, where there is one, the state that another process left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_corpus import SEQ_LEN, import_streaming
from torch import Tensor

BATCH = 8
SEED = 17


@dataclass(frozen=True)
class Place:
    """What a rank reads: `state` is what `Reading.state` gave, None at the beginning."""

    folder: Path
    samples: int
    rank: int = 0
    world_size: int = 1
    state: Any = None

    @property
    def rows(self) -> int:
        """Rows of this rank in a batch."""
        return BATCH // self.world_size


@dataclass(frozen=True)
class Reading:
    """Batches, shape (rows, SEQ_LEN) each, and the state after so many of them, if it has one."""

    batches: Iterator[Tensor]
    state: Callable[[int], Any] | None = None


@dataclass(frozen=True)
class Row:
    """One way to read.

    Attributes:
        form: of the corpus, a key of `data_corpus.WRITERS`.
        needs: the module that must be there.
        ray: whether it reads with Ray, which then runs before the clock starts.
        endless: whether it goes on to the next epoch by itself.
        replacing: whether a sample may come again before all have come.
    """

    name: str
    form: str
    open: Callable[[Place], Reading]
    needs: str = "manta.stream.plan"
    ray: bool = False
    endless: bool = False
    replacing: bool = False


# ---------------------------------------------------------------------------- Manta


def _plan(place: Place) -> tuple[Any, Any]:
    from manta.config.schedule import ScheduleSection
    from manta.corpus import Manifest
    from manta.schedule import Schedule
    from manta.stream.plan import open_corpus

    manifest = Manifest.read(place.folder)
    corpus = open_corpus(str(place.folder), manifest, "train", SEQ_LEN, SEED)
    epochs = 1000  # more than any row reads
    section = ScheduleSection.model_validate(
        {"horizon": epochs * place.samples * SEQ_LEN, "lr": 1e-3, "batch": BATCH}
    )
    return corpus, Schedule.resolve(section, SEQ_LEN)


def expected_ids(place: Place, batches: int) -> np.ndarray[Any, Any]:
    """What Manta's order, a pure function, says of the first positions."""
    from manta.stream.plan import order_of

    return order_of(_plan(place)[0]).ids(0, batches * BATCH)


def _manta(place: Place, with_ray: bool) -> Reading:
    from manta.stream import pipeline, plan

    corpus, schedule = _plan(place)
    source = pipeline.stream if with_ray else plan.local_stream
    cursor = place.state or 0
    batches = source(corpus, schedule, cursor=cursor, rank=place.rank, world_size=place.world_size)
    # The one conversion, as in the engine: from the mapped block to the final tensor.
    made = (torch.from_numpy(batch.samples["tokens"].astype(np.int64)) for batch in batches)
    return Reading(made, lambda consumed: cursor + consumed * BATCH)


# ---------------------------------------------------------------------------- peers


class _Widened:
    """Collates uint16 rows into one int64 tensor. A class: loader workers must pickle it."""

    def __init__(self, column: str | None):
        self.column = column

    def __call__(self, rows: list[Any]) -> Tensor:
        taken = [row[self.column] for row in rows] if self.column else rows
        # NumPy's stack is several times faster here than torch.stack and than a list of lists.
        return torch.from_numpy(np.stack([np.asarray(row) for row in taken]).astype(np.int64))


def _mosaic(place: Place, workers: int) -> Reading:
    streaming = import_streaming()
    if place.world_size == 1 and place.rank == 0:
        streaming.base.util.clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(
        local=str(place.folder),
        batch_size=place.rows,
        shuffle=True,
        shuffle_algo="py1s",  # over all shards; the default shuffles within blocks of samples
        shuffle_seed=SEED,
        num_canonical_nodes=1,
    )
    loader = streaming.StreamingDataLoader(
        dataset,
        batch_size=place.rows,
        num_workers=workers,
        collate_fn=_Widened("tokens"),
        prefetch_factor=8 if workers else None,
        drop_last=True,
    )
    if place.state is not None:
        loader.load_state_dict(place.state)
    return Reading(iter(loader), lambda _: loader.state_dict())


def _litdata(place: Place, workers: int) -> Reading:
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    dataset = StreamingDataset(
        input_dir=str(place.folder),
        item_loader=TokensLoader(block_size=SEQ_LEN),
        shuffle=True,
        drop_last=True,
        seed=SEED,
        # The whole chunk; 256 samples by default. It has no shuffle over chunks but their order.
        item_shuffle_window="full",
    )
    loader = StreamingDataLoader(
        dataset,
        batch_size=place.rows,
        num_workers=workers,
        shuffle=True,
        drop_last=True,
        collate_fn=_Widened(None),
        prefetch_factor=8 if workers else None,
    )
    if place.state is not None:
        loader.load_state_dict(place.state)
    return Reading(iter(loader), lambda _: loader.state_dict())


def _hf_dataset(place: Place) -> Any:
    from datasets import Dataset

    return Dataset.from_file(str(place.folder / "tokens.arrow")).with_format("numpy")


def _hf_map(place: Place) -> Reading:
    """Rows by index, a batch at a time; the sampler is the user's own: a permutation and a cut.

    So it resumes wherever its user slices the permutation: as exact as whoever writes it.
    """
    dataset = _hf_dataset(place)
    order = np.random.default_rng(SEED).permutation(place.samples)
    first = place.state or 0
    low = place.rank * place.rows

    def batches() -> Iterator[Tensor]:
        for begin in range(first, place.samples - BATCH + 1, BATCH):
            rows = dataset[order[begin + low : begin + low + place.rows]]["tokens"]
            yield torch.from_numpy(rows.astype(np.int64))

    return Reading(batches(), lambda consumed: first + consumed * BATCH)


def _hf_iterable(place: Place) -> Reading:
    """Streams shards in a random order through a buffer, in which it shuffles."""
    from datasets.distributed import split_dataset_by_node

    shards, buffer = 16, 10_000
    dataset = _hf_dataset(place).to_iterable_dataset(num_shards=shards)
    dataset = dataset.shuffle(seed=SEED, buffer_size=buffer)
    if place.world_size > 1:
        dataset = split_dataset_by_node(dataset, place.rank, place.world_size)
    dataset = dataset.batch(place.rows, drop_last_batch=True)
    if place.state is not None:
        dataset.load_state_dict(place.state)
    made = (torch.from_numpy(np.asarray(b["tokens"]).astype(np.int64)) for b in dataset)
    return Reading(made, lambda _: dataset.state_dict())


def _ray_data(place: Place) -> Reading:
    """A global shuffle, which reads everything before it gives anything. It has no state."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.read_parquet(str(place.folder)).random_shuffle(seed=SEED)
    batches = dataset.iter_torch_batches(
        batch_size=BATCH, dtypes=torch.int64, prefetch_batches=4, drop_last=True
    )
    return Reading(batch["tokens"] for batch in batches)


def _memmap(place: Place) -> Reading:
    """Windows drawn with replacement: no epoch. Aligned, so that their numbers can be checked."""
    tokens = np.memmap(place.folder / "tokens.bin", dtype=np.uint16, mode="r")
    random = np.random.default_rng(SEED)

    def batches() -> Iterator[Tensor]:
        while True:
            firsts = random.integers(0, place.samples, BATCH) * SEQ_LEN
            rows = [torch.from_numpy(tokens[a : a + SEQ_LEN].astype(np.int64)) for a in firsts]
            yield torch.stack(rows)

    return Reading(batches())


def _gather(place: Place) -> Reading:
    """Nothing but the copy: rows of mapped tokens, by an index in memory, as int64."""
    import pyarrow as pa

    with pa.memory_map(str(place.folder / "tokens.arrow")) as mapped:
        column = pa.ipc.open_stream(mapped).read_all().column("tokens")
    parts = [chunk.flatten().to_numpy().reshape(-1, SEQ_LEN) for chunk in column.chunks]
    size = len(parts[0])  # of all parts but the last
    random = np.random.default_rng(SEED)

    def batches() -> Iterator[Tensor]:
        while True:
            order = random.permutation(place.samples)
            for begin in range(0, place.samples - BATCH + 1, BATCH):
                out = np.empty((BATCH, SEQ_LEN), np.int64)
                for row, sample in enumerate(order[begin : begin + BATCH].tolist()):
                    out[row] = parts[sample // size][sample % size]
                yield torch.from_numpy(out)

    return Reading(batches())


def _with_workers(
    name: str, form: str, needs: str, opener: Callable[[Place, int], Reading]
) -> list[Row]:
    def opened(workers: int) -> Callable[[Place], Reading]:
        return lambda place: opener(place, workers)

    return [Row(f"{name}, {n} workers", form, opened(n), needs) for n in (0, 1, 2)]


ROWS = {
    row.name: row
    for row in [
        Row("bare gather", "arrow", _gather, "pyarrow", endless=True),
        Row("manta stream", "manta", lambda place: _manta(place, True), ray=True, endless=True),
        Row("manta local_stream", "manta", lambda place: _manta(place, False), endless=True),
        *_with_workers("MosaicML Streaming", "mosaic", "streaming", _mosaic),
        *_with_workers("litdata", "litdata", "litdata", _litdata),
        Row("HF datasets map-style", "arrow", _hf_map, "datasets"),
        Row("HF datasets iterable", "arrow", _hf_iterable, "datasets"),
        Row("Ray Data", "parquet", _ray_data, ray=True),
        Row("NumPy memmap windows", "memmap", _memmap, endless=True, replacing=True),
    ]
}
