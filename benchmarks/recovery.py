"""From a fault to the next step that had never been trained: Manta, Ray Train, torchrun.

    python benchmarks/recovery.py [--corpus corpora/demo] [--repeats 3] [--systems ...]
                                  [--faults worker node] [--keep FILE]

The demo's model, two workers of one CPU and one thread, batches of 8 × 128 tokens, a checkpoint
each ten steps. Faults: SIGKILL of the second worker, or of everything that makes a node Ray's
(not for torchrun, which has no nodes here). Rays are clusters in one machine: a head without
CPUs and two nodes with one each, so that after the loss of a node one worker is left. A fault
comes after 25 steps at least, midway between two checkpoints. For Manta it also waits until its
spares are warm, as they are 25 s into any run; nothing of the sort exists in the others. Each
case is a process of its own; cases alternate within a repeat. Times are taken in the workers,
right after a step, and by the process that makes the fault, on one clock.

    ray        Ray Train's elastic trainer with its default settings
    ray-0.25   the same, looking at its workers each 0.25 s (Manta: 0.5 s)
    torchrun   two processes on one machine, without Ray

With --keep the cases are added to FILE, and the table is of all that are in it: long
measurements can be made in parts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from train_loop_case import CONFIG, ROOT

CASE = Path(__file__).with_name("recovery_case.py")
SYSTEMS = ("manta", "ray", "ray-0.25", "torchrun")
FAULTS = ("worker", "node")
CASE_SECONDS = 420
# Where the time of a restart went, in its order.
PARTS = (
    *("detect", "stop", "place", "processes", "imports", "process_group"),
    *("model", "state", "data_and_first_step", "trained_again"),
)
Results = dict[tuple[str, str], list[dict[str, Any]]]


def write_inputs(corpus: Path, folder: Path) -> None:
    """What the plain loop reads: the corpus's tokens as one array, the demo's model config."""
    import numpy as np

    from manta.config import RunConfig, load
    from manta.corpus.manifest import Manifest
    from manta.model import hf_config
    from manta.sample import shard_file
    from manta.sample.tokens import document_tokens

    config, manifest = load(CONFIG, RunConfig), Manifest.read(corpus)
    files = [corpus / shard.file for shard in manifest.shards_of("train")]
    tokens = np.concatenate([document_tokens(shard_file.read(file))[0] for file in files])
    seq_len = config.train.seq_len
    np.save(folder / "tokens.npy", tokens[: len(tokens) // seq_len * seq_len].reshape(-1, seq_len))
    hf_config.resolve(config, manifest.vocabulary).save_pretrained(folder / "model")


def run_case(
    system: str, fault: str, inputs: Path, corpus: Path, seconds: float = CASE_SECONDS
) -> dict[str, Any]:
    """Measure once, in a process and a folder of its own, in so many seconds at most."""
    with tempfile.TemporaryDirectory(prefix="rec", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for given in ("tokens.npy", "model"):
            (folder / given).symlink_to(inputs / given)
        done = subprocess.run(
            [sys.executable, str(CASE), system, fault, str(folder), str(corpus)],
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if not (folder / "result.json").exists():
            sys.exit(f"{system}, {fault}: no result\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def show_case(repeat: int, fault: str, system: str, result: dict[str, Any]) -> None:
    """A line, as soon as it is known."""
    seconds, again = result["seconds"], result.get("again", 0)
    found = "none in time" if seconds is None else f"{seconds:.2f} s, {again} steps again"
    print(f"{repeat}: {fault:7} {system:9} {found}  (load {os.getloadavg()[0]:.1f})", flush=True)
    if parts := result.get("parts"):
        shown = (f"{name} {parts[name]:.2f}" for name in PARTS if name in parts)
        print(f"   {', '.join(shown)}", flush=True)


def show_table(results: Results) -> None:
    """Medians and what lies around them; then the parts of Manta's restarts."""
    print("\n| fault | system | median s | from | to | steps again | against manta | cases |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (fault, system), found in results.items():
        print(
            f"| {fault} | {system} | {' | '.join(_cells(found, results.get((fault, 'manta'))))} |"
        )
    for (fault, system), found in results.items():
        parts = [result["parts"] for result in found if result.get("parts")]
        if parts:
            print(f"\n{system}, {fault}, medians in seconds:")
            print("  " + ", ".join(_medians(parts)))


def _cells(found: list[dict[str, Any]], ours: list[dict[str, Any]] | None) -> list[str]:
    seconds = _seconds(found)
    hung = len(found) - len(seconds)
    cases = f"{len(found)}, {hung} of them none in time" if hung else f"{len(found)}"
    if not seconds:
        return ["", "", "", "", "", cases]
    middle = statistics.median(seconds)
    again = statistics.median(result["again"] for result in found if result["seconds"])
    against = f"{middle / statistics.median(_seconds(ours)):.1f}×" if _seconds(ours or []) else ""
    return [
        f"{middle:.2f}",
        f"{min(seconds):.2f}",
        f"{max(seconds):.2f}",
        f"{again:g}",
        against,
        cases,
    ]


def _seconds(found: list[dict[str, Any]]) -> list[float]:
    return [result["seconds"] for result in found if result["seconds"] is not None]


def _medians(parts: list[dict[str, float]]) -> list[str]:
    return [
        f"{name} {statistics.median(values):.2f}"
        for name in PARTS
        if (values := [part[name] for part in parts if name in part])
    ]


def measure(corpus: Path, arguments: argparse.Namespace) -> Results:
    """All cases in turn, repeatedly; with those kept before."""
    cases = [
        (fault, system)
        for fault in arguments.faults
        for system in arguments.systems
        if (fault, system) != ("node", "torchrun")
    ]
    with tempfile.TemporaryDirectory() as folder:
        inputs, kept = Path(folder), arguments.keep or Path(folder) / "cases.jsonl"
        write_inputs(corpus, inputs)
        for repeat in range(1, arguments.repeats + 1):
            for fault, system in cases:
                result = run_case(system, fault, inputs, corpus)
                show_case(repeat, fault, system, result)
                with kept.open("a") as file:
                    file.write(json.dumps({"fault": fault, "system": system, **result}) + "\n")
        return _read_kept(kept)


def _read_kept(path: Path) -> Results:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    order = {(fault, system): [] for fault in FAULTS for system in SYSTEMS}
    for case in found:
        order[case["fault"], case["system"]].append(case)
    return {key: cases for key, cases in order.items() if cases}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora/demo")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--keep", type=Path, help="file that cases are added to")
    arguments = parser.parse_args()
    corpus = arguments.corpus.resolve()
    if not (corpus / "manifest.json").exists():
        sys.exit(f"{arguments.corpus}: prepare it first: manta prepare jobs/demo/corpus.yaml")
    results = measure(corpus, arguments)
    show_table(results)


if __name__ == "__main__":
    main()
