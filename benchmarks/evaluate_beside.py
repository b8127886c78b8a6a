"""What evaluators beside training cost the training.

    python benchmarks/evaluate_beside.py [--rounds 3] [--steps 60]

Trains the same run in turns without and with evaluators, by `manta train` with one worker of one
CPU, and compares the same steps, those after the first checkpoint, while one evaluation follows the
other (the training split's loss, so that they never end before training): their whole time, and
the mean of their fastest quarter, which other work on the machine disturbs less. With two cores
the evaluation has the second one; caches, memory, driver and Ray are shared, so the figures are an
upper bound for devices that share nothing. Needs the demo's corpus (`manta prepare
jobs/demo/corpus.yaml`).
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


def seconds(
    folder: Path, name: str, steps: int, cpus: float | None
) -> tuple[float, float, list[float]]:
    """Seconds of the steps from a third of the run on, a step of the fastest, and all losses."""
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
    spent = sorted(STEP / row["tokens_per_s"] for row in training if row["step"] > steps // 3)
    fastest = statistics.mean(spent[: len(spent) // 4])
    return sum(spent), fastest, [row["loss"] for row in training]


def main() -> None:
    """Measure and print the ratio of each round, and their median."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    whole, fastest = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(arguments.rounds):
            alone, quick, losses = seconds(folder, f"alone-{number}", arguments.steps, None)
            beside, quick_too, same = seconds(folder, f"beside-{number}", arguments.steps, 1.0)
            assert losses == same, "evaluation has changed the training"
            whole.append(beside / alone)
            fastest.append(quick_too / quick)
            print(
                f"round {number + 1}: {alone:.2f} s alone, {beside:.2f} s beside; a step of the "
                f"fastest quarter {1000 * quick:.0f} ms and {1000 * quick_too:.0f} ms",
                flush=True,
            )
            for run in folder.glob("*-*/"):
                shutil.rmtree(run)
    print("time of a step with an evaluation beside it, as a multiple of that without:")
    for what, ratios in (("all steps", whole), ("fastest quarter", fastest)):
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"  {what}: {statistics.median(ratios):.3f} ({spread})")
    print("the same losses to the bit")


if __name__ == "__main__":
    main()
