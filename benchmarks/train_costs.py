"""What a logging step, a checkpoint, a snapshot and a ledger row each cost beside the step.

    python benchmarks/train_costs.py [--periods 40] [--models micro,tiny] [--corpus corpora/demo]

One rank's training loop under plain python (no Ray), with one thing on at a time, once in each
period: a log row in 4 steps, a snapshot in memory in 20, a checkpoint on the local disk in 40.
Its cost is the time of a period's first half, which begins with it and has what is written
beside training, less that of the second half, which has none: the machine's drift is in both.
In brackets the quartiles over periods. A ledger row, which no run is without, is timed by itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

# Before Torch begins to allocate: as Manta's workers do it.
if "MALLOC_ARENA_MAX" not in os.environ:
    from manta.elastic.worker.environment import CPU_ALLOCATOR

    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **CPU_ALLOCATOR})

import torch
import torch.distributed as dist
from train_loop_case import BATCH, CONFIG, MODELS, ROOT, SEQ_LEN, Case

from manta.config import RunConfig, load
from manta.elastic.checks.preflight import check
from manta.model import hf_config
from manta.state.vault import SnapshotShard, Stamp
from manta.stream.ledger import digest
from manta.stream.plan import local_stream
from manta.train.engine import Engine
from manta.train.loop import Loop
from manta.train.threads import compute_here

STEP = BATCH * SEQ_LEN
OFF = {"log.every": 10**12, "checkpoint.every": "null", "checkpoint.snapshot_every": 0}
# The setting that turns a thing on, its unit in steps, and the steps of a period.
THINGS = {
    "log row": ("log.every", STEP, 4),
    "snapshot": ("checkpoint.snapshot_every", 1, 20),
    "checkpoint": ("checkpoint.every", STEP, 40),
}
OFTEN = {
    "log row": "each step",
    "snapshot": "at most 2 % of the time",
    "checkpoint": "at the end",
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

    def open(self, stamp: Stamp) -> list[SnapshotShard]:
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

    def busy(self, doing: str, share: float = 0.0) -> None:
        """Nobody listens."""

    def metrics(self, row: Mapping[str, Any], spent: Mapping[str, float]) -> None:
        pass

    def checkpoint(self, *_: Any) -> None:
        pass


def halves(case: Case, thing: str) -> list[tuple[float, float]]:
    """Seconds of each period's first half, which begins with the thing, and of its second half."""
    key, unit, period = THINGS[thing]
    folder = tempfile.mkdtemp()
    overrides = [f"{name}={value}" for name, value in {**OFF, key: period * unit}.items()]
    checked = check(load(CONFIG, RunConfig, [*case.overrides(folder), *overrides]))
    checked.run_dir.mkdir()
    resolved = hf_config.resolve(checked.config, checked.manifest.vocabulary)
    clock = Clock()
    job = checked.job(1, "here")
    loop = Loop(job, Engine(checked.config, resolved), clock, Memory())
    loop.run(
        lambda cursor: local_stream(
            checked.corpus, checked.schedule, cursor=cursor, rank=0, world_size=1
        )
    )
    shutil.rmtree(folder)
    # A step's time is told before what is due after it. The first of each thing is dearer.
    ends = clock.times[2 * period - 1 :: period // 2]
    spans = [end - begin for begin, end in pairwise(ends)]
    return list(zip(spans[::2], spans[1::2], strict=False))


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
    parser.add_argument("--periods", type=int, default=40, help="of each thing")
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    arguments = parser.parse_args()
    if arguments.periods < 2:
        parser.error("--periods must be two at least")
    if not (arguments.corpus / "manifest.json").exists():
        sys.exit(f"{arguments.corpus}: prepare it first: manta prepare jobs/demo/corpus.yaml")
    cores = os.cpu_count() or 1
    compute_here(cores)
    # A group of one, as in a worker: then checkpoints are written beside training.
    dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    print("| model, step | thing | extra, ms each | of a step | how often by default |")
    print("| --- | --- | --- | --- | --- |")
    for name in arguments.models:
        for thing, (_, _, period) in THINGS.items():
            steps = (arguments.periods + 2) * period
            case = Case(name, "fp32", 1, 1, cores, steps, str(arguments.corpus.resolve()))
            pairs = halves(case, thing)
            step = statistics.median(without for _, without in pairs) / (period // 2)
            extra = [on - without for on, without in pairs]
            low, middle, high = statistics.quantiles(extra, n=4)
            label = f"{name}, {step * 1e3:.1f} ms"
            shown = f"{middle * 1e3:.2f} ({low * 1e3:.2f} to {high * 1e3:.2f})"
            print(f"| {label} | {thing} | {shown} | {middle / step:.1%} | {OFTEN[thing]} |")
        row = ledger_row()
        print(f"| {label} | ledger row | {row * 1e3:.3f} | {row / step:.2%} | each step |")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
