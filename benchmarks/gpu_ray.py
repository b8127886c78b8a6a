"""Real runs of `manta train` on GPUs, with what befalls them: part of `gpu_session.sh`.

    python benchmarks/gpu_ray.py ray|two [--device cpu] [--quick]

`ray`, one device: a driver is killed with SIGKILL and the same command goes on; then a worker dies,
and one runs out of memory, on a GPU by a forward pass that is too large for it. `two`, two devices:
one worker, DDP and FSDP2 must come to the same losses. Prints a table; status 1 if a row is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "platform"
sys.path[:0] = [str(SOURCE), str(HERE)]

import random_corpus  # noqa: E402

VOCAB, SEQ_LEN, BATCH, STEPS = 512, 64, 16, 24
RUN_SECONDS = 240
# bf16 sums in another order at another number of workers.
LOSSES_AGREE = 0.02
Row = tuple[str, bool, str]


class Runs:
    """Runs in a folder, on one kind of device."""

    def __init__(self, folder: Path, device: str, quick: bool):
        self._folder, self.device, self.quick = folder, device, quick
        random_corpus.write(folder / "corpus", shard_count=1, shard_tokens=2**16, vocab_size=VOCAB)

    def config(self, name: str, **sections: Any) -> Path:
        """A file for `manta train`; JSON is YAML."""
        needs = {"CPU": 1, "GPU": 1} if self.device == "cuda" else {"CPU": 0.5}
        wide = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        config = {
            "run": {"name": name, "storage": str(self._folder / "runs")},
            "corpus": str(self._folder / "corpus"),
            "model": {"type": "llama", "sizes": {**wide, **heads}},
            "train": {"seq_len": SEQ_LEN, "micro_batch": 8, "precision": "bf16"},
            "schedule": {"horizon": STEPS * BATCH * SEQ_LEN, "lr": 1e-3, "batch": BATCH},
            "scaling": {"min": 1, "resources_per_worker": needs},
            "checkpoint": {"every": 6 * BATCH * SEQ_LEN},
            "log": {"every": BATCH * SEQ_LEN},
            "wandb": {"mode": "disabled"},
        }
        for section, keys in sections.items():
            config[section] = (
                {**config.get(section, {}), **keys} if isinstance(keys, dict) else keys
            )
        path = self._folder / f"{name}.yaml"
        path.write_text(json.dumps(config))
        return path

    def folder(self, name: str) -> Path:
        """Of a run."""
        return self._folder / "runs" / name

    def start(self, config: Path) -> subprocess.Popen[str]:
        """`manta train` in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "manta.cli", "train", str(config)],
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def train(self, config: Path) -> str:
        """Train to the end; returns what was said."""
        process = self.start(config)
        try:
            said, _ = process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
            said += f"\nnot done after {RUN_SECONDS} s"
        print(said, file=sys.stderr)
        return said

    def state(self, name: str) -> dict[str, Any]:
        """The record of a run."""
        found: dict[str, Any] = json.loads((self.folder(name) / "run.json").read_text())
        return found

    def losses(self, name: str) -> dict[int, float]:
        """Training loss by step; the last that was told."""
        lines = (self.folder(name) / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return {row["step"]: row["loss"] for row in rows if "loss" in row}

    def finished(self, name: str) -> Row:
        """Whether a run came to its end, with each step."""
        state, steps = self.state(name), sorted(self.losses(name))
        whole = steps == list(range(1, STEPS + 1))
        detail = f"{state['status']} {state.get('reason') or ''}, {len(steps)} of {STEPS} steps"
        return (f"{name}: all steps, once", state["status"] == "finished" and whole, detail)


def killed_and_on(runs: Runs) -> Iterator[Row]:
    """The driver dies with SIGKILL in the middle; the same command goes on, and a worker dies."""
    # The first driver's run stands at a step until it is killed: nothing is left to chance.
    held = {"kind": "hold", "at": "step", "step": 9, "until": "never"}
    first = runs.start(runs.config("killed", faults=[held]))
    whole = runs.folder("killed") / "checkpoints" / f"step-{6:012d}" / "state.json"
    until = time.monotonic() + RUN_SECONDS
    # The driver records its group a moment after the group trains; by that the next is the second.
    while first.poll() is None and time.monotonic() < until:
        if whole.exists() and runs.state("killed")["groups"]:
            break
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    yield ("a checkpoint before the driver is killed", whole.exists(), "step 6")
    faults = [{"kind": "kill", "at": "step", "step": 12, "attempt": 2}]
    if runs.device == "cpu":  # which has memory for more than anybody waits for
        faults.append({"kind": "out_of_memory", "at": "step", "step": 18, "attempt": 3})
    said = runs.train(runs.config("killed", faults=faults))
    yield runs.finished("killed")
    groups = len(runs.state("killed")["groups"])
    yield ("the run went on each time", groups == 2 + len(faults), f"{groups} worker groups")
    if runs.device == "cpu":
        yield halved(said)


def halved(said: str) -> Row:
    """Whether a run has helped itself."""
    lines = [line for line in said.splitlines() if "micro_batch is halved" in line]
    return ("out of memory: the micro-batch is halved", bool(lines), f"{len(lines)} times")


def too_large(runs: Runs) -> Iterator[Row]:
    """A forward pass that the device has no memory for: half a TB of activations."""
    rows, length = 2**10, 1024
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16}
    config = runs.config(
        "large",
        model={"type": "llama", "sizes": {**sizes, **heads}},
        train={"seq_len": length, "micro_batch": rows},
        schedule={"horizon": 2 * rows * length, "batch": rows},
    )
    yield halved(runs.train(config))
    state = runs.state("large")
    yield ("and then it fits", state["status"] == "finished", state.get("reason") or "")


def two_devices(runs: Runs) -> Iterator[Row]:
    """One worker, and two of each kind."""
    alone = {"scaling": {"min": 1}}
    kinds: dict[str, dict[str, Any]] = {"alone": alone, "sharded": {"parallel": {"shard": True}}}
    if not runs.quick:
        kinds = {
            **kinds,
            "ddp": {},
            "ddp-compiled": {"train": {"compile": True}},
            "sharded-compiled": {"parallel": {"shard": True}, "train": {"compile": True}},
        }
    for name, sections in kinds.items():
        runs.train(runs.config(name, **{"scaling": {"min": 2}, **sections}))
        yield runs.finished(name)
    first, *others = kinds
    reference = runs.losses(first)
    for name in others:
        losses = runs.losses(name)
        worst = max(abs(losses[step] / reference[step] - 1) for step in reference)
        yield (f"{name}: losses of {first}", worst < LOSSES_AGREE, f"{worst:.2%} apart")


def main() -> None:
    """Run a part and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("ray", "two"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    asked = parser.parse_args()
    print("| what | right | detail |\n| --- | --- | --- |", flush=True)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), asked.device, asked.quick)
        parts = [killed_and_on] if asked.part == "ray" else [two_devices]
        if asked.part == "ray" and asked.device == "cuda":
            parts.append(too_large)
        for part in parts:
            for what, right, detail in part(runs):
                wrong += not right
                print(f"| {what} | {'yes' if right else 'NO'} | {detail} |", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
