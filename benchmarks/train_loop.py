"""Steady training throughput of `manta train` beside the loops that people use instead.

    python benchmarks/train_loop.py [--turns 24] [--seconds 2] [--models micro,tiny]
        [--precisions fp32,bf16] [--accumulations 1,4] [--workers 1,2] [--loops manta,accelerate,…]
        [--cores 2] [--corpus corpora/demo] [--peers PYTHON] [--out FILE.json]

The same model, weights, optimizer, batches, threads and memory allocator for each: a
hand-written PyTorch loop (the limit; its attention is in float32 where the rest is bf16), Manta,
bare Accelerate, Hugging Face's Trainer, litgpt's own loop (with its own model of the same sizes)
and Ray Train with the loop as people write it. Each of them is paired with a plain one: they train
side by side, one for some seconds while the other is stopped, in turn (`train_loop_turns.py`). A
share is the steps of a loop in those of the plain loop, over all turns and, for the spread, over
each quarter of them. With one worker and the same weights, losses must be the same: the largest
difference is shown.

Manta takes no snapshots and checkpoints here, as the others don't; `--loops manta,snapshots` has
a column for Manta with the snapshots that it takes by default. Workers share `--cores`, all of
the machine by default; with fewer, what runs beside the training has a core of its own, as on
most machines with GPUs.

Peers that need more than Manta are those of `make bench-peers`, or of another PYTHON. About two
and a half minutes a cell.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from train_loop_case import CONFIG, MODELS, PROGRESS, ROOT, WARMUP, Case
from train_loop_peers import LOOPS, allocator
from train_loop_turns import Contender, take_turns

PEERS = Path(__file__).with_name("train_loop_peers.py")
MISSING = "not installed: make bench-peers"
NAMES = {
    "plain": "plain loop",
    "manta": "Manta",
    "snapshots": "Manta with snapshots",
    "accelerate": "Accelerate",
    "trainer": "HF Trainer",
    "litgpt": "litgpt",
    "ray_train": "Ray Train",
}
MANTA = {"manta": ["checkpoint.snapshot_every=0"], "snapshots": []}
PLAIN = "plain"
# Those that begin with the same weights and report the loss of the same step.
SAME_LOSS = ("manta", "snapshots", "accelerate", "ray_train")
STEPS = 5000  # more than there is time for
PARTS = 4
# By loop: "rates", steps a second of each part, "plain", those of the plain loop meanwhile, and
# "difference", the largest relative one of two losses of the same step.
Found = dict[str, dict[str, Any]]


@contextmanager
def contender(name: str, case: Case, python: str) -> Iterator[Contender]:
    """One of the loops, warm and stopped."""
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        if name in MANTA:
            found = start_manta(name, case, there)
        else:
            found = start_peer(name, case, python, there)
        try:
            found.warm_up(WARMUP)
            yield found
        finally:
            found.end()


def start_manta(name: str, case: Case, folder: Path) -> Contender:
    """`manta train`, by this Python."""
    command = [sys.executable, "-m", "manta.cli", "train", str(CONFIG)]
    overrides = [*case.overrides(str(folder)), *MANTA[name]]
    progress = folder / "bench" / "metrics.jsonl"
    return Contender([*command, *overrides], os.environ, ROOT, progress)


def start_peer(name: str, case: Case, python: str, folder: Path) -> Contender:
    """One of the other loops."""
    given, progress = folder / "case.json", folder / "progress.jsonl"
    given.write_text(case.to_json())
    several = case.world_size > 1 and name != "ray_train"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command = [python, *([*launcher, str(case.world_size)] if several else [])]
    settings = {"OMP_NUM_THREADS": str(case.threads), PROGRESS: str(progress)}
    environment = {**os.environ, **allocator(), **settings}
    return Contender([*command, str(PEERS), name, str(given)], environment, ROOT, progress)


def compare(name: str, case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """A loop beside the plain one."""
    with ExitStack() as running:
        pair = {
            one: running.enter_context(contender(one, case, arguments.peers))
            for one in (PLAIN, name)
        }
        rates = take_turns(pair, arguments.turns, arguments.seconds, PARTS)
        losses = [
            {row["step"]: row["loss"] for row in one.rows() if "loss" in row}
            for one in pair.values()
        ]
    return {"rates": rates[name], "plain": rates[PLAIN], "difference": difference(*losses)}


def has(name: str, python: str) -> bool:
    """Whether what a loop needs is installed."""
    if name != "litgpt":
        return True
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('litgpt') is None)"
    return subprocess.run([python, "-c", code]).returncode == 0


def difference(one: dict[int, float], other: dict[int, float]) -> float:
    """Largest relative difference of two losses of the same step."""
    same = one.keys() & other.keys()
    return max((abs(other[step] - one[step]) / one[step] for step in same), default=0.0)


def cell(found: dict[str, Any]) -> str:
    """A loop's share of the plain loop's steps, and its spread over the parts."""
    mine, limit = found["rates"], found["plain"]
    shares = [one / other for one, other in zip(mine, limit, strict=True)]
    return f"{sum(mine) / sum(limit):.3f} ({min(shares):.3f} to {max(shares):.3f})"


def table(results: dict[Case, Found], others: Sequence[str]) -> str:
    """Markdown: a row for each case, a column for each loop."""
    lines = [
        "| case | plain loop, steps/s | " + " | ".join(NAMES[name] for name in others) + " |",
        "| --- " * (2 + len(others)) + "|",
    ]
    for case, found in results.items():
        limit = statistics.fmean(rate for one in found.values() for rate in one["plain"])
        cells = [cell(found[name]) if name in found else MISSING for name in others]
        lines.append(f"| {case.name} | {limit:.2f} | " + " | ".join(cells) + " |")
    same = [
        found[name]["difference"]
        for case, found in results.items()
        for name in SAME_LOSS
        if name in found and case.world_size == 1  # with more, some give that of one rank
    ]
    if same:
        compared = ", ".join(NAMES[name] for name in SAME_LOSS if name in others)
        lines.append(
            f"\nLargest relative difference of a loss from the plain loop's: {max(same):.1e}"
            f" ({compared})."
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print a table."""
    arguments = _arguments()
    if not (arguments.corpus / "manifest.json").exists():
        sys.exit(f"{arguments.corpus}: prepare it first: manta prepare jobs/demo/corpus.yaml")
    results: dict[Case, Found] = {}
    for workers, model, precision, accumulation in itertools.product(
        arguments.workers, arguments.models, arguments.precisions, arguments.accumulations
    ):
        case = Case(
            model=model,
            precision=precision,
            accumulate=int(accumulation),
            world_size=int(workers),
            threads=max(1, arguments.cores // int(workers)),
            steps=STEPS,
            corpus=str(arguments.corpus.resolve()),
        )
        results[case] = {
            name: compare(name, case, arguments)
            for name in arguments.loops
            if has(name, arguments.peers)
        }
        print(table({case: results[case]}, arguments.loops), file=sys.stderr, flush=True)
        if arguments.out:
            kept = [{"case": asdict(case), **found} for case, found in results.items()]
            arguments.out.write_text(json.dumps(kept, indent=1))
    print(table(results, arguments.loops))


def _arguments() -> argparse.Namespace:
    def several(text: str) -> list[str]:
        return text.split(",")

    default = ["manta", *(name for name in LOOPS if name != PLAIN)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora/demo")
    parser.add_argument("--turns", type=int, default=24, help="of each loop, a multiple of four")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--models", type=several, default=list(MODELS)[::-1])
    parser.add_argument("--precisions", type=several, default=["fp32", "bf16"])
    parser.add_argument("--accumulations", type=several, default=["1", "4"])
    parser.add_argument("--workers", type=several, default=["1", "2"])
    parser.add_argument("--loops", type=several, default=default)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peers", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--out", type=Path, help="where to keep all figures, as JSON")
    arguments = parser.parse_args()
    if arguments.turns % PARTS:
        parser.error("--turns must be a multiple of four")
    return arguments


if __name__ == "__main__":
    main()
