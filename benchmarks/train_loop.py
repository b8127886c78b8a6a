"""Steady training throughput of `manta train` beside the loops that people use instead.

    python benchmarks/train_loop.py [--repeats 3] [--steps 60] [--models micro,tiny]
        [--precisions fp32,bf16] [--accumulations 1,4] [--workers 1,2] [--loops plain,manta,…]
        [--cores 2] [--corpus corpora/demo] [--peers PYTHON] [--out FILE.json]

The same model, weights, optimizer, batches, threads and memory allocator for each: a
hand-written PyTorch loop (the limit), Manta, bare Accelerate, Hugging Face's Trainer, litgpt's
own loop (with its own model of the same sizes) and Ray Train with the plain loop. All run in
turn, A B C A B C …, each in processes of its own; a rate is the median over stretches of ten
steps after the first twenty, a share is a rate divided by that of the plain loop in the same
repeat. With one worker and the same weights, losses must be the same: the largest difference is
shown.

Manta takes no snapshots and checkpoints here, as the others don't: `train_costs.py` has what these
cost. Workers share `--cores`, all of the machine by default; with fewer, what runs beside the
training has a core of its own, as on most machines with GPUs.

Peers that need more than Manta are those of `make bench-peers`, or of another PYTHON. About 15 s
a cell and repeat.
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
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from train_loop_case import CONFIG, MODELS, ROOT, WARMUP, Case
from train_loop_peers import LOOPS, allocator

PEERS = Path(__file__).with_name("train_loop_peers.py")
MISSING = "not installed: make bench-peers"
NAMES = {
    "plain": "plain loop",
    "manta": "Manta",
    "accelerate": "Accelerate",
    "trainer": "HF Trainer",
    "litgpt": "litgpt",
    "ray_train": "Ray Train",
}
# Those that begin with the same weights and report the loss of the same step.
SAME_LOSS = ("manta", "accelerate", "ray_train")
Found = dict[str, Any]  # "rates": tokens a second of each stretch; "losses": by step


def run_manta(case: Case, more: Sequence[str] = ()) -> tuple[Found, dict[str, float]]:
    """Rates and losses of `manta train`, and the seconds of its start.

    `more` are overrides of its config.
    """
    with tempfile.TemporaryDirectory() as storage:
        began = time.time()
        command = [sys.executable, "-m", "manta.cli", "train", str(CONFIG)]
        _done([*command, *case.overrides(storage), *more], os.environ)
        total = time.time() - began
        run = Path(storage) / "bench"
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        start = json.loads((run / "run.json").read_text())["groups"][0]["start"]
    found = {
        "rates": [row["tokens_per_s"] for row in rows if row["step"] > WARMUP],
        "losses": {str(row["step"]): row["loss"] for row in rows},
    }
    return found, {**start, "command": total}


def run_loop(name: str, case: Case, python: str) -> Found:
    """Rates and losses of one of the other loops."""
    if name == "manta":
        return run_manta(case, ["checkpoint.snapshot_every=0"])[0]
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "case.json", Path(folder) / "out.json"
        given.write_text(case.to_json())
        several = case.world_size > 1 and name != "ray_train"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command = [python, *([*launcher, str(case.world_size)] if several else [])]
        threads = {"OMP_NUM_THREADS": str(case.threads)}
        _done(
            [*command, str(PEERS), name, str(given), str(out)],
            {**os.environ, **allocator(), **threads},
        )
        found: Found = json.loads(out.read_text())
    return found


def _done(command: list[str], environment: Any) -> None:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def has(name: str, python: str) -> bool:
    """Whether what a loop needs is installed."""
    if name != "litgpt":
        return True
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('litgpt') is None)"
    return subprocess.run([python, "-c", code]).returncode == 0


def difference(one: Found, other: Found) -> float:
    """Largest relative difference of two losses of the same step."""
    return max(abs(other["losses"][k] - loss) / loss for k, loss in one["losses"].items())


def shares(found: dict[str, list[Found]], name: str) -> list[float]:
    """Of a loop's rates in the plain loop's, by repeat."""
    rates = [
        [statistics.median(repeat["rates"]) for repeat in found[which]] for which in (name, "plain")
    ]
    return [mine / limit for mine, limit in zip(*rates, strict=True)]


def cell(values: list[float]) -> str:
    """Median and spread."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def table(results: dict[Case, dict[str, list[Found]]], loops: list[str]) -> str:
    """Markdown: a row for each case, a column for each loop."""
    others = [name for name in loops if name != "plain"]
    lines = [
        "| case | plain loop, tokens/s | " + " | ".join(NAMES[name] for name in others) + " |",
        "| --- " * (2 + len(others)) + "|",
    ]
    for case, found in results.items():
        limit = statistics.median(statistics.median(one["rates"]) for one in found["plain"])
        cells = [cell(shares(found, name)) if found[name] else MISSING for name in others]
        lines.append(f"| {case.name} | {limit:,.0f} | " + " | ".join(cells) + " |")
    same = [
        difference(found["plain"][0], found[name][0])
        for case, found in results.items()
        for name in SAME_LOSS
        if found.get(name) and case.world_size == 1  # with more, some give that of one rank
    ]
    if same:
        compared = ", ".join(NAMES[name] for name in SAME_LOSS if name in loops)
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
    results: dict[Case, dict[str, list[Found]]] = {}
    for workers, model, precision, accumulation in itertools.product(
        arguments.workers, arguments.models, arguments.precisions, arguments.accumulations
    ):
        case = Case(
            model=model,
            precision=precision,
            accumulate=int(accumulation),
            world_size=int(workers),
            threads=max(1, arguments.cores // int(workers)),
            steps=arguments.steps,
            corpus=str(arguments.corpus.resolve()),
        )
        results[case] = defaultdict(list)
        for repeat, name in itertools.product(range(arguments.repeats), arguments.loops):
            if not has(name, arguments.peers):
                continue
            found = run_loop(name, case, arguments.peers)
            results[case][name].append(found)
            rate = statistics.median(found["rates"])
            print(f"{case.name}: {repeat + 1}: {name} {rate:,.0f} tokens/s", file=sys.stderr)
        if arguments.out:
            kept = [{"case": asdict(case), **found} for case, found in results.items()]
            arguments.out.write_text(json.dumps(kept, indent=1))
    print(table(results, arguments.loops))


def _arguments() -> argparse.Namespace:
    def several(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora/demo")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--models", type=several, default=list(MODELS)[::-1])
    parser.add_argument("--precisions", type=several, default=["fp32", "bf16"])
    parser.add_argument("--accumulations", type=several, default=["1", "4"])
    parser.add_argument("--workers", type=several, default=["1", "2"])
    parser.add_argument("--loops", type=several, default=["plain", "manta", *list(LOOPS)[1:]])
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peers", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--out", type=Path, help="where to keep all figures, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
