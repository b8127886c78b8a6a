"""What evaluators beside training cost the training.

    python benchmarks/evaluate_beside.py [--rounds 3] [--steps 60]

Trains the same run in turns without and with evaluators, by `manta train` with one worker of one
CPU, and compares the time of the same steps: those after the first checkpoint, while one evaluation
follows the other (the training split's loss, so that they never end before training). On a machine
with two cores the evaluation has the second one; caches, memory and the operating system's own work
are shared, so the figure is an upper bound for devices that share nothing. Needs the demo's corpus
(`manta prepare jobs/demo/corpus.yaml`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BATCH, SEQ_LEN = 8, 128
STEP = BATCH * SEQ_LEN


def config(folder: Path, name: str, steps: int, cpus: float | None) -> dict[str, Any]:
    """A run of so many steps; with evaluators that ask for `cpus`, unless None."""
    evaluators = {
        "config": {"name": "cost", "splits": {"text": {"split": "train", "tokens": "2M"}}},
        "resources": {"CPU": cpus},
    }
    return {
        "run": {"name": name, "storage": str(folder)},
        "corpus": str(ROOT / "corpora" / "demo"),
        "model": {
            "type": "llama",
            "sizes": {
                "hidden_size": 256,
                "intermediate_size": 512,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "max_position_embeddings": SEQ_LEN,
            },
        },
        "train": {"seq_len": SEQ_LEN, "micro_batch": BATCH},
        "schedule": {"horizon": steps * STEP, "lr": 1e-3, "batch": BATCH},
        "checkpoint": {"every": STEP * steps // 6, "snapshot_every": 0},
        "wandb": {"mode": "disabled"},
        **({} if cpus is None else {"eval": {"evaluators": evaluators}}),
    }


def seconds(folder: Path, name: str, steps: int, cpus: float | None) -> tuple[float, list[float]]:
    """Seconds of the steps from a third of the run on, and all losses."""
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config(folder, name, steps, cpus)))
    command = [sys.executable, "-m", "manta.cli", "train", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "to be made" in line:  # training has ended: what is left is not measured
            process.terminate()
    process.wait()
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    training = [row for row in rows if "loss" in row]
    assert len(training) == steps, "".join(said)
    assert cpus is None or not any("evaluation" in row for row in rows), "evaluations ended"
    spent = sum(STEP / row["tokens_per_s"] for row in training if row["step"] > steps // 3)
    return spent, [row["loss"] for row in training]


def main() -> None:
    """Measure and print the ratio of each round, and their median."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(arguments.rounds):
            alone, losses = seconds(folder, f"alone-{number}", arguments.steps, None)
            beside, same = seconds(folder, f"beside-{number}", arguments.steps, 1.0)
            assert losses == same, "evaluation has changed the training"
            ratios.append(beside / alone)
            print(f"round {number + 1}: {alone:.2f} s alone, {beside:.2f} s beside", flush=True)
            for run in folder.glob("*-*/"):
                shutil.rmtree(run)
    print(
        f"time of a step with an evaluation beside it: {statistics.median(ratios):.3f} of that "
        f"without ({min(ratios):.3f} to {max(ratios):.3f}); the same losses to the bit"
    )


if __name__ == "__main__":
    main()
