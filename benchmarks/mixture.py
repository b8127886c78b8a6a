"""What a mixture costs: in the order of samples, and in the stream that reads them.

    python benchmarks/mixture.py          # add --local to leave Ray out

The order: nanoseconds an id at 10^13 tokens, beside the order of a corpus as a whole, for ids of
neighbouring positions and for the two rows of each step that one of 4,096 ranks takes. The stream:
tokens/s of a mixture of ten sources over those of the same shards without one, in turn; the fastest
pass of each, which the rest of the machine disturbed least. Without Ray, time is processor time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import random_corpus

from manta.cluster.session import ray_session
from manta.config.mixture import MixtureSection
from manta.config.schedule import ScheduleSection
from manta.corpus.manifest import Manifest
from manta.schedule import Schedule
from manta.schedule.shares import Mixture
from manta.stream import pipeline, plan
from manta.stream.mixed_order import MixedOrder, SourceSpan
from manta.stream.mixed_sources import Mixed, source_spans
from manta.stream.order import SampleOrder
from manta.stream.plan import Corpus, RankBatch

TOKENS = 10**13
SEQ_LEN, BATCH = 2048, 8
SHARDS, SHARD_TOKENS = 10, 4 * 2**20
LOCAL_TOKENS, RAY_TOKENS = 64 * 2**20, 1024 * 2**20
ROUNDS = 9
COUNTS = (64, 1024, 16_384, 262_144)
RANKS, RANK_STEPS, STEP_BATCH = 4096, 1024, 8192


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--local", action="store_true", help="without Ray")
    asked = parser.parse_args()
    _print_orders()
    print("\n| stream, M tokens/s | without a mixture | 10 sources | ratio |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        plain, mixed = _corpora(Path(folder))
        clock = time.process_time
        print(_stream_row("in this process", plan.local_stream, plain, mixed, LOCAL_TOKENS, clock))
        if not asked.local:
            with ray_session():
                clock = time.perf_counter
                print(_stream_row("on Ray", pipeline.stream, plain, mixed, RAY_TOKENS, clock))


# ---------------------------------------------------------------------------------- the order


def _print_orders() -> None:
    names = [*(f"{count:,} ids" for count in COUNTS), "1 of 4,096 ranks"]
    print("| ns an id | " + " | ".join(names) + " |\n| --- |" + " --- |" * len(names))
    whole = SampleOrder(key="made/train", seed=1, num_samples=10**9)
    for name, order in (
        ("without a mixture", whole),
        ("2 sources", _mixed_order(2)),
        ("10 sources", _mixed_order(10)),
        ("100 sources", _mixed_order(100)),
    ):
        print(f"| {name} | " + " | ".join(_order_cells(order)) + " |")


def _mixed_order(count: int) -> MixedOrder:
    """Sources whose weights change over the whole horizon, at one token a sample."""
    sizes = {f"s{i}": 10**9 + 7 * i for i in range(count)}
    sources = {
        name: {"weight": [{"shape": "linear", "from": 1 + i % 7, "to": 1 + (i + 3) % 7}]}
        for i, name in enumerate(sizes)
    }
    section = MixtureSection.model_validate({"sources": sources})
    mixture = Mixture.resolve(section, sizes, TOKENS, 1)
    firsts = np.cumsum([0, *sizes.values()]).tolist()
    spans = tuple(
        SourceSpan(name, f"made/train/{name}", first, samples)
        for (name, samples), first in zip(sizes.items(), firsts, strict=False)
    )
    return MixedOrder(key="made/train", seed=1, mixture=mixture, spans=spans, all_samples=10**12)


def _order_cells(order: SampleOrder | MixedOrder) -> Iterator[str]:
    middle = TOKENS // 2
    for count in COUNTS:
        yield _per_id(lambda k, n=count: order.ids(middle + k * n, middle + (k + 1) * n), count)
    steps = STEP_BATCH * np.arange(RANK_STEPS, dtype=np.int64)
    positions = (middle + steps[:, None] + np.arange(STEP_BATCH // RANKS)).ravel()
    yield _per_id(lambda k: order.ids_at(positions + k), len(positions))


def _per_id(ids: Callable[[int], object], count: int) -> str:
    """Nanoseconds an id of the fastest of many calls, by the processor's time."""
    best, number, end = float("inf"), 0, time.perf_counter() + 0.5
    while time.perf_counter() < end or number < 3:
        began = time.process_time()
        ids(number)
        best, number = min(best, time.process_time() - began), number + 1
    return f"{best / count * 1e9:,.0f}"


# --------------------------------------------------------------------------------- the stream


def _corpora(folder: Path) -> tuple[Corpus, Corpus]:
    """The same shards without a mixture, and as ten sources of different weights."""
    manifest = random_corpus.write(
        folder, shard_count=SHARDS, shard_tokens=SHARD_TOKENS, vocab_size=50_000
    )
    mixed = _mixed(str(folder), _with_sources(manifest))
    opened = [
        plan.open_corpus(str(folder), manifest, "train", SEQ_LEN, seed=1, mixed=each)
        for each in (None, mixed)
    ]
    return opened[0], opened[1]


def _with_sources(manifest: Manifest) -> Manifest:
    """Each shard as a source of its own."""
    shards = [
        shard.model_copy(update={"source": f"s{i}"}) for i, shard in enumerate(manifest.shards)
    ]
    return manifest.model_copy(update={"shards": shards})


def _mixed(folder: str, manifest: Manifest) -> Mixed:
    spans = source_spans(folder, manifest, "train", manifest.format_of_samples, SEQ_LEN)
    sources = {name: {"weight": 1 + i % 3} for i, name in enumerate(spans)}
    section = MixtureSection.model_validate({"sources": sources})
    sizes = {name: span.samples for name, span in spans.items()}
    mixture = Mixture.resolve(section, sizes, RAY_TOKENS, SEQ_LEN)
    return Mixed(mixture, tuple(spans.values()), SHARDS * SHARD_TOKENS // SEQ_LEN)


Stream = Callable[..., Iterator[RankBatch]]


def _stream_row(
    name: str,
    stream: Stream,
    plain: Corpus,
    mixed: Corpus,
    tokens: int,
    clock: Callable[[], float],
) -> str:
    turns = [
        [_seconds(stream, corpus, tokens, clock) for corpus in (plain, mixed)]
        for _ in range(ROUNDS)
    ]
    one, ten = (min(seconds) for seconds in zip(*turns, strict=True))
    return f"| {name} | {tokens / one / 1e6:.0f} | {tokens / ten / 1e6:.0f} | {one / ten:.3f} |"


def _seconds(stream: Stream, corpus: Corpus, tokens: int, clock: Callable[[], float]) -> float:
    """Seconds until the last batch has come."""
    section = ScheduleSection.model_validate({"horizon": tokens, "lr": 1e-3, "batch": BATCH})
    schedule = Schedule.resolve(section, SEQ_LEN)
    began = clock()
    for _ in stream(corpus, schedule, cursor=0, rank=0, world_size=1):
        pass
    return clock() - began


if __name__ == "__main__":
    main()
