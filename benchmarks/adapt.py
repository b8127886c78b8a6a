"""Fine-tuning: Manta beside TRL's SFTTrainer and DPOTrainer, all weights and LoRA by PEFT.

    python benchmarks/adapt.py [--turns 16] [--seconds 4] [--threads 2] [--steps 20]
        [--cases chat-lora,…,resume] [--corpus corpora/demo] [--peers PYTHON] [--axolotl PYTHON]
        [--out FILE.json]

The demo's model with weights by its seed, the demo's tokenizer, and the chats and pairs of
`jobs/chat` and `jobs/preference`. First the same batches in the same order, one conversation or
pair a row: losses step by step, in float32. Then speed as people would have it, both contenders
packed or padded as they do it, in turns of some seconds, one running while the others are stopped
(`train_loop_turns.py`): supervised tokens a second, the share of tokens computed that are padding,
peak memory of the process, and seconds from its start to the end of the first step. TRL's packing
makes one row of several conversations, which on a CPU see each other: it is shown, but trains on
something else. DPOTrainer packs nothing. Axolotl, if it is there (`make bench-axolotl`), trains on
the same chats as TRL does. At last a run that is killed and goes on with half the
workers (`adapt_resume.py`). With `--turns 0` speeds are left out.
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
from adapt_case import PROGRESS, TASKS, Case, conversations
from adapt_resume import resumed, told
from train_loop_peers import allocator
from train_loop_turns import Contender, take_turns

ROOT = Path(__file__).resolve().parents[1]
CASE = Path(__file__).with_name("adapt_case.py")
MANTA, SAME = "manta", "manta-apart"
AXOLOTL = "axolotl"
NAMES = {
    MANTA: "Manta",
    "trl": "TRL, padded",
    "trl-packed": "TRL, packed",
    AXOLOTL: "Axolotl, padded",
}
MANY, WARMUP, PARTS = 100_000, 6, 4
METHODS = {"lora": "LoRA, rank 16", "full": "all weights"}
RESUME = "resume"
CASES = [*(f"{task}-{method}" for task in TASKS for method in METHODS), RESUME]


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
        for name in arguments.cases.split(","):
            if name == RESUME:
                found[name] = resumed(here, arguments.peers)
                print(told(found[name]), flush=True)
                continue
            task, _, method = name.partition("-")
            case = Case(task, adapter=method == "lora", threads=arguments.threads)
            (here / "case.json").write_text(json.dumps(asdict(case)))
            names = {n: NAMES[n] for n in (MANTA, "trl")} if task != "chat" else NAMES
            if not Path(arguments.axolotl).exists():
                names = {n: shown for n, shown in names.items() if n != AXOLOTL}
            found[name] = {
                "losses": losses(here, [n for n in ("trl", AXOLOTL) if n in names], arguments),
                "speed": speed(here, names, arguments) if arguments.turns else {},
            }
            print(table(f"{task}, {METHODS[method]}", found[name]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))


# -------------------------------------------------------------------- what is trained


def make(folder: Path, corpus: Path) -> None:
    """The base model with its tokenizer, and chats and pairs, packed and one of them a row."""
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
    for task, of in TASKS.items():
        job = ROOT / "jobs" / task
        records = folder / "corpora" / f"{task}.jsonl"  # pairs are made of the chats beside them
        subprocess.run([sys.executable, job / "data.py", records], cwd=folder, check=True)
        for name, packing in (("packed", "true"), ("apart", "false")):
            overrides = [
                *(f"out={folder / f'{task}-{name}'}", f"tokenizer.path={folder / 'base'}"),
                *(f"sources=[{{name: a, format: jsonl, paths: ['{records}']}}]",),
                *(f"chat.length={of.length}", f"chat.packing={packing}"),
            ]
            command = [sys.executable, "-m", "manta.cli", "prepare", str(job / "corpus.yaml")]
            subprocess.run([*command, *overrides], cwd=ROOT, check=True, capture_output=True)
    chats = conversations(folder, Case("chat", adapter=False, threads=1), MANY)
    with (folder / "chat.jsonl").open("w") as file:
        for row in chats:
            file.write(json.dumps({**row, "attention_mask": [1] * len(row["input_ids"])}) + "\n")


def start(name: str, folder: Path, steps: int, arguments: argparse.Namespace) -> Contender:
    """A contender in a process of its own, which has begun to start."""
    there = Path(tempfile.mkdtemp(dir=folder))
    python = {MANTA: sys.executable, AXOLOTL: arguments.axolotl}.get(
        name.partition("-")[0], arguments.peers
    )
    settings = {
        "OMP_NUM_THREADS": str(arguments.threads),
        PROGRESS: str(there / "progress.jsonl"),
        "TRANSFORMERS_VERBOSITY": "error",
    }
    environment = {**os.environ, **allocator(), **settings}
    command = [python, str(CASE), name, str(folder), str(steps)]
    return Contender(command, environment, ROOT, there / "progress.jsonl")


# ---------------------------------------------------------------------- what is found


def losses(folder: Path, others: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """The same batches by all: the losses, and the largest relative differences from Manta's."""
    found = {}
    for name in (SAME, *others):
        contender = start(name, folder, arguments.steps, arguments)
        try:
            contender.warm_up(arguments.steps)
            rows = {row["step"]: row for row in contender.rows()}
        finally:
            contender.end()
        found[name] = rows
    ours = found.pop(SAME)
    return {
        "first": ours[1]["loss"],
        "last": ours[arguments.steps]["loss"],
        "others": {
            name: {
                "difference": max(
                    abs(rows[step]["loss"] - row["loss"]) / row["loss"]
                    for step, row in ours.items()
                ),
                "same_supervised": all(
                    rows[step]["supervised"] == row["supervised"] for step, row in ours.items()
                ),
            }
            for name, rows in found.items()
        },
    }


def speed(
    folder: Path, names: dict[str, str], arguments: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """All contenders, in turns."""
    with ExitStack() as running:
        contenders, first = {}, {}
        for name in names:
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


def table(case: str, found: dict[str, Any]) -> str:
    """Markdown."""
    same, speeds = found["losses"], found["speed"]
    told = [
        f"{NAMES[name]} {one['difference']:.1e}"
        f"{'' if one['same_supervised'] else ', NOT of the same supervised tokens'}"
        for name, one in same["others"].items()
    ]
    lines = [
        f"**{case}.** The same batches: loss {same['first']:.4f} to {same['last']:.4f}; largest "
        f"relative difference from it: {'; '.join(told)}.",
        "",
    ]
    if not speeds:
        return "\n".join(lines)
    limit = speeds["trl"]["supervised"]
    lines += [
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
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--peers", default=str(ROOT / ".venv-peers/bin/python"))
    parser.add_argument("--axolotl", default=str(ROOT / ".venv-axolotl/bin/python"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    arguments.corpus = arguments.corpus.resolve()
    return arguments


if __name__ == "__main__":
    main()
