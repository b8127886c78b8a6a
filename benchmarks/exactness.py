"""How far the loss curves of one config differ at different numbers of workers.

    python benchmarks/exactness.py [--steps 200] [--workers 1 2 3] [KEY=VALUE ...]

The demo's model with a batch of seven samples, which no number of workers but one and seven
divides. Samples and their digests must agree exactly; losses may differ by the order in which
floats are added up, so the table has the relative difference to the first run by step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "jobs/demo/run.yaml"
SEQ_LEN, BATCH = 128, 7


def train(storage: Path, corpus: Path, workers: int, steps: int, changes: list[str]) -> Path:
    """Train to the end; returns the run's folder."""
    name = f"workers-{workers}"
    settings = {
        "corpus": corpus,
        "run.storage": storage,
        "run.name": name,
        "train.seq_len": SEQ_LEN,
        "train.micro_batch": BATCH,
        "schedule.horizon": steps * BATCH * SEQ_LEN,
        "schedule.batch": BATCH,
        "scaling.min": workers,
        "scaling.max": workers,
        "scaling.resources_per_worker": "{CPU: 0.5}",
        "scaling.spares": 0,
        "eval.every": "null",
        "log.every": 0,
        "wandb.mode": "disabled",
    }
    arguments = [f"{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "manta.cli", "train", str(CONFIG), *arguments, *changes]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
    return storage / name


def losses(run: Path) -> list[float]:
    """Loss of each step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def digests(run: Path) -> list[int]:
    """Digest of each step's samples."""
    found: list[int] = pq.read_table(run / "ledger.parquet")["digest"].to_pylist()
    return found


def main() -> None:
    """Train at each number of workers and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora/demo")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            workers: train(
                Path(folder), given.corpus.resolve(), workers, given.steps, given.changes
            )
            for workers in given.workers
        }
        reference = losses(runs[given.workers[0]])
        marks = sorted({max(1, given.steps * part // 4) for part in range(1, 5)})
        head = " | ".join(f"step {mark}" for mark in marks)
        print(f"| workers | samples | {head} | largest |")
        print("| --- " * (len(marks) + 3) + "|")
        for workers, run in runs.items():
            same = digests(run) == digests(runs[given.workers[0]])
            pairs = zip(losses(run), reference, strict=True)
            relative = [abs(loss - other) / other for loss, other in pairs]
            shown = " | ".join(f"{relative[mark - 1]:.1e}" for mark in marks)
            worst = max(range(len(relative)), key=relative.__getitem__)
            print(
                f"| {workers} | {'the same' if same else 'DIFFERENT'} | {shown} "
                f"| {relative[worst]:.1e} at step {worst + 1} |"
            )


if __name__ == "__main__":
    main()
