"""What a logging step, a checkpoint, a snapshot and a ledger row each cost beside the step.

    python benchmarks/train_costs.py [--repeats 3] [--steps 120] [--models micro,tiny]
        [--corpus corpora/demo]

One rank's training loop under plain python (no Ray), with one thing on at a time, in turn with
a loop that has none of them. A stretch is ten steps; it holds ten log rows, or one checkpoint
on the local disk (what its writing beside training costs is in it), or one snapshot in memory.
The extra cost is the difference of the medians over stretches, as seconds of held training for
each. A ledger row, which no run is without, is timed by itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

# Before Torch begins to allocate: as Manta's workers do it.
if "MALLOC_ARENA_MAX" not in os.environ:
    from manta.elastic.environment import CPU_ALLOCATOR

    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **CPU_ALLOCATOR})

import torch
import torch.distributed as dist
from train_loop_case import BATCH, CONFIG, MODELS, ROOT, SEQ_LEN, Case

from manta.config import RunConfig, load
from manta.elastic.preflight import check
from manta.stream.ledger import digest
from manta.stream.plan import local_stream
from manta.train import model_config
from manta.train.engine import Engine
from manta.train.loop import Loop
from manta.train.vault import Shard, Stamp

STEP = BATCH * SEQ_LEN
OFF = {"log.every": 10**12, "checkpoint.every": "null", "checkpoint.snapshot_every": 0}
EVERY, WARMUP = 10, 20  # steps of a stretch; steps before the first that counts
# What is on, and how many of it a stretch has.
THINGS: dict[str, tuple[dict[str, Any], int]] = {
    "nothing": ({}, 1),
    "log row": ({"log.every": STEP}, EVERY),
    "checkpoint": ({"checkpoint.every": EVERY * STEP}, 1),
    "snapshot": ({"checkpoint.snapshot_every": EVERY}, 1),
}


class Memory:
    """A vault in this very process."""

    def __init__(self) -> None:
        self._data = bytearray()

    def free(self, size: int) -> bool:
        if len(self._data) < size:
            self._data = bytearray(size)
        return True

    def buffer(self) -> memoryview:
        return memoryview(self._data)

    def commit(self, stamp: Stamp, parts: int, header: bytes) -> None:
        pass

    def whole(self) -> list[Stamp]:
        return []

    def open(self, stamp: Stamp) -> list[Shard]:
        return []

    def settle(self, seconds: float) -> bool:
        return True


class Clock:
    """A reporter that takes the time of each step and tells nobody."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def resumed(self, *_: Any, **__: Any) -> None:
        pass

    def rewound(self, step: int) -> None:
        pass

    def recorded(self) -> int:
        return 0

    def stepped(self, state: Any) -> None:
        self.times.append(time.perf_counter())

    def metrics(self, row: Mapping[str, Any]) -> None:
        pass

    def checkpoint(self, *_: Any) -> None:
        pass


def stretches(case: Case, thing: str) -> list[float]:
    """Seconds of each ten steps of a loop with one thing on."""
    folder = tempfile.mkdtemp()
    overrides = [f"{key}={value}" for key, value in {**OFF, **THINGS[thing][0]}.items()]
    checked = check(load(CONFIG, RunConfig, [*case.overrides(folder), *overrides]))
    checked.run_dir.mkdir()
    resolved = model_config.resolve(checked.config, checked.manifest.vocab_size)
    clock = Clock()
    job = checked.job(1, "here")
    loop = Loop(job, Engine(checked.config, resolved), clock, Memory())
    loop.run(
        lambda cursor: local_stream(
            checked.corpus, checked.schedule, cursor=cursor, rank=0, world_size=1
        )
    )
    shutil.rmtree(folder)
    ends = clock.times[WARMUP::EVERY]
    return [end - begin for begin, end in pairwise(ends)]


def ledger_row(rows: int = BATCH, times: int = 1000) -> float:
    """Seconds of a step's part in the ledger: the digest of its sample ids."""
    ids = torch.arange(rows).numpy()
    began = time.perf_counter()
    for _ in range(times):
        digest(ids)
    return (time.perf_counter() - began) / times


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora/demo")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    arguments = parser.parse_args()
    if not (arguments.corpus / "manifest.json").exists():
        sys.exit(f"{arguments.corpus}: prepare it first: manta prepare jobs/demo/corpus.yaml")
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    # A group of one, as in a worker: then checkpoints are written beside training.
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    print("| model, step | thing | extra, ms each | of a step | how often by default |")
    print("| --- | --- | --- | --- | --- |")
    often = {
        "log row": "each step",
        "checkpoint": "at the end",
        "snapshot": "at most 2 % of the time",
    }
    for name in arguments.models:
        case = Case(name, "fp32", 1, 1, cores, arguments.steps, str(arguments.corpus.resolve()))
        found = defaultdict(list)
        for _ in range(arguments.repeats):
            for thing in THINGS:
                found[thing].append(statistics.median(stretches(case, thing)))
        step = statistics.median(found["nothing"]) / EVERY
        label = f"{name}, {step * 1e3:.1f} ms"
        for thing in list(THINGS)[1:]:
            pairs = zip(found[thing], found["nothing"], strict=True)
            extra = sorted((on - off) / THINGS[thing][1] for on, off in pairs)
            middle = statistics.median(extra)
            shown = f"{middle * 1e3:.2f} ({extra[0] * 1e3:.2f} to {extra[-1] * 1e3:.2f})"
            print(f"| {label} | {thing} | {shown} | {middle / step:.1%} | {often[thing]} |")
        row = ledger_row()
        print(f"| {label} | ledger row | {row * 1e3:.3f} | {row / step:.2%} | each step |")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
