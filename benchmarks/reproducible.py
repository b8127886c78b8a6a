"""What `train.reproducible: any_world_size` costs: steps with it and without it, in turns.

    python benchmarks/reproducible.py [--ranks 1 2] [--accumulate 1 4] [--turns 8] [--steps 4]

The demo's model with forward passes of 2,048 tokens, under plain python (no Ray), one thread a
rank, gloo between ranks. Both engines are in the same processes and train in turns, so that the
machine's drift is in both; a row has the ratio of the medians, and the least and the largest of a
turn's. Bytes are what a rank gives into the exchange of a step's gradients.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

# Before Torch begins to allocate: as Manta's workers do it.
if "MALLOC_ARENA_MAX" not in os.environ:
    from manta.elastic.worker.environment import CPU_ALLOCATOR

    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **CPU_ALLOCATOR})

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from manta.config import RunConfig, load
from manta.elastic.checks.preflight import check
from manta.model import hf_config
from manta.stream.plan import local_stream
from manta.train.engine import Engine
from manta.train.threads import compute_here

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "jobs/demo/run.yaml"
SEQ_LEN, ROWS = 128, 16


def engine(arguments: argparse.Namespace, ranks: int, accumulate: int, reproducible: str):
    """An engine and its batches, on this rank."""
    steps = arguments.turns * arguments.steps + 2
    batch = ROWS * accumulate * ranks
    overrides = [
        *(f"corpus={arguments.corpus}", "run.storage=/tmp", "run.name=bench"),
        *(f"train.micro_batch={ROWS}", f"train.seq_len={SEQ_LEN}", f"schedule.batch={batch}"),
        *(f"schedule.horizon={steps * batch * SEQ_LEN}", f"train.reproducible={reproducible}"),
        *("eval.every=null", "checkpoint.every=null", "wandb.mode=disabled"),
        *(f"scaling.min={ranks}", f"train.precision={arguments.precision}"),
    ]
    checked = check(load(CONFIG, RunConfig, overrides))
    found = Engine(checked.config, hf_config.resolve(checked.config, checked.manifest.vocabulary))
    rank = found.ranks.rank
    return found, local_stream(
        checked.corpus, checked.schedule, cursor=0, rank=rank, world_size=ranks
    )


def measure(
    rank: int, meet: str, ranks: int, accumulate: int, arguments: argparse.Namespace, out: str
) -> None:
    """Train both in turns on one rank; the first writes the seconds of a step of each turn."""
    compute_here(1)
    if ranks > 1:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
        os.environ.update(MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=ranks)
    pairs = [engine(arguments, ranks, accumulate, kind) for kind in ("null", "any_world_size")]
    lines = []
    for turn in range(arguments.turns + 1):
        seconds = []
        for one, batches in pairs:
            began = time.perf_counter()
            for _ in range(arguments.steps if turn else 2):
                one.step(next(batches))
            seconds.append((time.perf_counter() - began) / arguments.steps)
        if turn:
            lines.append(f"{seconds[0]} {seconds[1]}")
    elements = sum(p.numel() for p in pairs[0][0].trained.lm.parameters())
    if rank == 0:
        Path(out).write_text("\n".join([str(elements), *lines]))
    if ranks > 1:
        dist.destroy_process_group()


def row(ranks: int, accumulate: int, arguments: argparse.Namespace) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/seconds"
        given = (f"file://{folder}/meet", ranks, accumulate, arguments, out)
        mp.spawn(measure, given, nprocs=ranks)
        elements, *lines = Path(out).read_text().splitlines()
    turns = [tuple(map(float, line.split())) for line in lines]
    plain, exact = (statistics.median(turn[kind] for turn in turns) for kind in (0, 1))
    ratios = sorted(turn[1] / turn[0] for turn in turns)
    sent = (
        "" if ranks == 1 else f"{4 * int(elements) / 2**20:.0f} / {8 * int(elements) / 2**20:.0f}"
    )
    return (
        f"| {ranks} | {accumulate} | {1e3 * plain:.0f} | {1e3 * exact:.0f} | "
        f"**{exact / plain:.3f}** ({ratios[0]:.3f} to {ratios[-1]:.3f}) | {sent} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora/demo")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", default="no")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {ROWS * SEQ_LEN:,} tokens a forward pass")
    print("| ranks | passes a step | ms a step | reproducible | ratio | MiB exchanged |")
    print("| --- | --- | --- | --- | --- | --- |")
    for ranks in arguments.ranks:
        for accumulate in arguments.accumulate:
            print(row(ranks, accumulate, arguments), flush=True)


if __name__ == "__main__":
    main()
