"""Fine-tuning on chats: Manta beside TRL's SFTTrainer, all weights and LoRA by PEFT.

    python benchmarks/adapt.py [--turns 16] [--seconds 4] [--threads 2] [--steps 20]
        [--methods full,lora] [--corpus corpora/demo] [--peers PYTHON] [--out FILE.json]

The demo's model with weights by its seed, the demo's tokenizer, and the chats of `jobs/chat`. First
the same batches in the same order, one conversation a row: losses step by step, in float32. Then
speed as people would have it, both contenders packed or padded as they do it, in turns of some
seconds, one running while the others are stopped (`train_loop_turns.py`): supervised tokens a
second, the share of tokens computed that are padding or otherwise no text, peak memory of the
process, and seconds from its start to the end of the first step. TRL's packing makes one row of
several conversations, which on a CPU see each other: it is shown, but trains on something else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from adapt_case import LENGTH, PROGRESS, Case
from train_loop_peers import allocator
from train_loop_turns import Contender, take_turns

ROOT = Path(__file__).resolve().parents[1]
CASE = Path(__file__).with_name("adapt_case.py")
MANTA, SAME = "manta", "manta-apart"
NAMES = {MANTA: "Manta", "trl": "TRL", "trl-packed": "TRL, packed"}
MANY, WARMUP, PARTS = 100_000, 6, 4
METHODS = {"full": "all weights", "lora": "LoRA, rank 16"}


def main() -> None:
    """Measure and print tables."""
    arguments = _arguments()
    if not (arguments.corpus / "manifest.json").exists():
        sys.exit(f"{arguments.corpus}: prepare it first: manta prepare jobs/demo/corpus.yaml")
    if not Path(arguments.peers).exists():
        print("TRL is not installed: make bench-peers")
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        make(here, arguments.corpus)
        for method in arguments.methods.split(","):
            case = Case(adapter=method == "lora", threads=arguments.threads)
            (here / "case.json").write_text(json.dumps(asdict(case)))
            found[method] = {
                "losses": losses(here, arguments),
                "speed": speed(here, arguments),
            }
            print(table(method, found[method]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))


# -------------------------------------------------------------------- what is trained


def make(folder: Path, corpus: Path) -> None:
    """The base model with its tokenizer, and the chats, packed and one conversation a row."""
    from manta.config import RunConfig, load
    from manta.corpus.manifest import Manifest
    from manta.corpus.tokenizer import of_corpus
    from manta.model import hf_config, language_model

    manifest = Manifest.read(str(corpus))
    config = load(ROOT / "jobs/demo/run.yaml", RunConfig, [f"corpus={corpus}"])
    lm = language_model.build(config, hf_config.resolve(config, manifest.vocabulary))
    lm.save_pretrained(folder / "base")
    for name, content in of_corpus(str(corpus), manifest).files.items():
        (folder / "base" / name).write_bytes(content)
    chats = folder / "chats.jsonl"
    subprocess.run([sys.executable, "jobs/chat/data.py", str(chats)], cwd=ROOT, check=True)
    for name, packing in (("packed", "true"), ("apart", "false")):
        overrides = [
            *(f"out={folder / name}", f"tokenizer.path={folder / 'base'}"),
            *(f"sources=[{{name: a, format: jsonl, paths: ['{chats}']}}]",),
            *(f"chat.length={LENGTH}", f"chat.packing={packing}"),
        ]
        command = [sys.executable, "-m", "manta.cli", "prepare", "jobs/chat/corpus.yaml"]
        subprocess.run([*command, *overrides], cwd=ROOT, check=True, capture_output=True)


def start(name: str, folder: Path, steps: int, arguments: argparse.Namespace) -> Contender:
    """A contender in a process of its own, which has begun to start."""
    there = Path(tempfile.mkdtemp(dir=folder))
    python = sys.executable if name.startswith(MANTA) else arguments.peers
    settings = {
        "OMP_NUM_THREADS": str(arguments.threads),
        PROGRESS: str(there / "progress.jsonl"),
        "TRANSFORMERS_VERBOSITY": "error",
    }
    environment = {**os.environ, **allocator(), **settings}
    command = [python, str(CASE), name, str(folder), str(steps)]
    return Contender(command, environment, ROOT, there / "progress.jsonl")


# ---------------------------------------------------------------------- what is found


def losses(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The same batches by both: the losses, and their largest relative difference."""
    found = {}
    for name in (SAME, "trl"):
        contender = start(name, folder, arguments.steps, arguments)
        try:
            contender.warm_up(arguments.steps)
            rows = {row["step"]: row for row in contender.rows()}
        finally:
            contender.end()
        found[name] = rows
    ours, theirs = found[SAME], found["trl"]
    same = [row["supervised"] == theirs[step]["supervised"] for step, row in ours.items()]
    differences = [
        abs(theirs[step]["loss"] - row["loss"]) / row["loss"] for step, row in ours.items()
    ]
    return {
        "first": ours[1]["loss"],
        "last": ours[arguments.steps]["loss"],
        "difference": max(differences),
        "same_supervised": all(same),
    }


def speed(folder: Path, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All contenders, in turns."""
    with ExitStack() as running:
        contenders, first = {}, {}
        for name in NAMES:
            began = time.monotonic()
            contenders[name] = start(name, folder, MANY, arguments)
            running.callback(contenders[name].end)
            contenders[name].warm_up(1)
            first[name] = time.monotonic() - began
            contenders[name].run(1)
        rates = take_turns(contenders, arguments.turns, arguments.seconds, PARTS)
        return {
            name: {
                **_of_rows(contender.rows()[WARMUP:], rates[name]),
                "first_step": first[name],
                "memory": _peak(contender),
            }
            for name, contender in contenders.items()
        }


def _of_rows(rows: list[dict[str, Any]], rates: list[float]) -> dict[str, float]:
    supervised = sum(row["supervised"] for row in rows) / len(rows)
    tokens, computed = (sum(row[key] for row in rows) for key in ("tokens", "computed"))
    each = [rate * supervised for rate in rates]
    return {
        "supervised": sum(each) / len(each),
        "least": min(each),
        "most": max(each),
        "waste": 1 - tokens / computed,
    }


def _peak(contender: Contender) -> float:
    """Peak resident memory of a contender's process, in MiB."""
    status = Path(f"/proc/{contender.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def table(method: str, found: dict[str, Any]) -> str:
    """Markdown."""
    same, speeds = found["losses"], found["speed"]
    limit = speeds["trl"]["supervised"]
    lines = [
        f"**{METHODS[method]}.** The same batches: loss {same['first']:.4f} to {same['last']:.4f}, "
        f"largest relative difference {same['difference']:.1e}, supervised tokens "
        f"{'the same' if same['same_supervised'] else 'NOT the same'} at each step.",
        "",
        "| | supervised tokens/s | of TRL's | waste | peak MiB | first step, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in speeds.items():
        lines.append(
            f"| {NAMES[name]} | {one['supervised']:,.0f} ({one['least']:,.0f} to "
            f"{one['most']:,.0f}) | {one['supervised'] / limit:.2f} | {one['waste']:.1%} | "
            f"{one['memory']:,.0f} | {one['first_step']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora/demo")
    parser.add_argument("--turns", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--threads", type=int, default=len(psutil.Process().cpu_affinity()))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--methods", default="full,lora")
    parser.add_argument("--peers", default=str(ROOT / ".venv-peers/bin/python"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    arguments.corpus = arguments.corpus.resolve()
    return arguments


if __name__ == "__main__":
    main()
