"""Steady training throughput of `manta train` beside a hand-written PyTorch loop.

    python benchmarks/train_loop.py [--corpus corpora/demo] [--repeats 5] [--steps 60]

The demo's model, one worker with both CPUs, the same batches of the same shape, fp32, AdamW,
clipping, loss read every ten steps. The loop is what a person would write: windows of a
token array, forward, backward, clip, step; nothing else. Both run in turn, A B A B …, each in
processes of its own; a rate is the median over stretches of ten steps after the first twenty.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "jobs/demo/run.yaml"
EVERY, WARMUP = 10, 20


def plain_loop(corpus: Path, steps: int, batch: int) -> list[float]:
    """Tokens a second of the hand-written loop, for each stretch of ten steps."""
    import numpy as np
    import torch
    from plain_step import plain_step
    from transformers import AutoModelForCausalLM

    from manta.config import RunConfig, load
    from manta.corpus import shards
    from manta.corpus.manifest import Manifest
    from manta.train import model_config

    config = load(CONFIG, RunConfig)
    manifest = Manifest.read(corpus)
    seq_len = config.train.seq_len
    tokens = np.concatenate(
        [
            shards.document_tokens(shards.read(corpus / shard.file))[0]
            for shard in manifest.shards_of("train")
        ]
    )
    windows = tokens[: len(tokens) // seq_len * seq_len].reshape(-1, seq_len)
    order = np.random.default_rng(0).permutation(len(windows))
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(model_config.resolve(config, manifest.vocab_size))
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    rates, since = [], time.perf_counter()
    for step in range(1, steps + 1):
        loss = plain_step(lm, optimizer, windows[order[(step - 1) * batch : step * batch]])
        if step % EVERY == 0:
            loss.item()
            now = time.perf_counter()
            if step > WARMUP:
                rates.append(EVERY * batch * seq_len / (now - since))
            since = now
    return rates


def run_plain(corpus: Path, steps: int, batch: int) -> float:
    """The loop's median rate, in a process of its own with the threads that Manta gets."""
    command = [sys.executable, __file__, "--plain", "--corpus", str(corpus)]
    done = subprocess.run(
        [*command, "--steps", str(steps), "--batch", str(batch)],
        env={**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())},
        capture_output=True,
        text=True,
        check=True,
    )
    return statistics.median(json.loads(done.stdout))


def run_manta(
    corpus: Path, steps: int, batch: int, more: Sequence[str] = ()
) -> tuple[float, dict[str, float]]:
    """The median rate of `manta train` with one worker, and the seconds of its start.

    `more` are overrides of its config.
    """
    seq_len = 128
    with tempfile.TemporaryDirectory() as storage:
        overrides = [
            *(f"corpus={corpus}", f"run.storage={storage}", "run.name=bench"),
            *(f"schedule.horizon={steps * batch * seq_len}", f"schedule.batch={batch}"),
            *(f"log.every={EVERY * batch * seq_len}", f"train.micro_batch={batch}"),
            *("eval.every=null", "checkpoint.every=null", "wandb.mode=disabled"),
            *("scaling.min=1", f"scaling.resources_per_worker.CPU={os.cpu_count()}"),
            *more,
        ]
        began = time.time()
        subprocess.run(
            [sys.executable, "-m", "manta.cli", "train", str(CONFIG), *overrides],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        total = time.time() - began
        run = Path(storage) / "bench"
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        start = json.loads((run / "run.json").read_text())["groups"][0]["start"]
    rates = [row["tokens_per_s"] for row in rows if row["step"] > WARMUP]
    return statistics.median(rates), {**start, "command": total}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora/demo")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        print(json.dumps(plain_loop(arguments.corpus, arguments.steps, arguments.batch)))
        return
    if not (arguments.corpus / "manifest.json").exists():
        sys.exit(f"{arguments.corpus}: prepare it first: manta prepare jobs/demo/corpus.yaml")
    ratios = []
    for repeat in range(1, arguments.repeats + 1):
        plain = run_plain(arguments.corpus.resolve(), arguments.steps, arguments.batch)
        manta, start = run_manta(arguments.corpus.resolve(), arguments.steps, arguments.batch)
        ratios.append(manta / plain)
        shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in start.items())
        print(f"{repeat}: plain {plain:,.0f}  manta {manta:,.0f} tokens/s  ({shown})", flush=True)
    low, high = min(ratios), max(ratios)
    print(f"manta / plain: median {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
