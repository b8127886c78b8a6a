"""How much of the time a run trains while its workers are preempted: Manta, Ray Train, torchrun.

    python benchmarks/goodput.py [--corpus corpora/demo] [--steps 600] [--deaths 4] [--systems ...]

The shape of Ray's own benchmark of preemptions (ray#65047: 1,600 steps, 4 preemptions, 8 workers),
made small: the demo's model, two workers of one CPU each on two nodes of one machine, a checkpoint
each 50 steps, and the second worker is killed so many times, evenly over the steps. The systems
are those of `recovery.py`, each run in a process of its own.

    useful        new steps, at the median time of a step between two faults, in the wall time
    steps again   steps that were trained before
    pause         from a kill to the next step that had never been trained, less the time of a step
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from recovery import SYSTEMS, run_case, write_inputs
from train_loop_case import ROOT

CHECKPOINT_EVERY = 50
SECONDS = 1500.0


def goodput(result: dict[str, Any]) -> dict[str, float]:
    """Shares and pauses from the lines of a run, in seconds."""
    steps, killed = result["steps"], result["killed"]
    gaps = [b["time"] - a["time"] for a, b in pairwise(steps) if a["group"] == b["group"]]
    usual = statistics.median(gaps)
    new = {line["step"] for line in steps}
    pauses = [_pause(steps, death) - usual for death in killed]
    return {
        "useful": (len(new) - 1) * usual / (steps[-1]["time"] - steps[0]["time"]),
        "again": len(steps) - len(new),
        "step": usual,
        "median": statistics.median(pauses),
        "worst": max(pauses),
    }


def _pause(steps: list[dict[str, Any]], death: dict[str, float]) -> float:
    """Seconds from a death to the end of the first step behind all that were done by then."""
    before = max(line["step"] for line in steps if line["time"] <= death["time"])
    # The old group may end a step after the death: its workers had all exchanged.
    group = next(line["group"] for line in reversed(steps) if line["time"] <= death["time"])
    after = next(line for line in steps if line["step"] > before and line["group"] != group)
    seconds: float = after["time"] - death["time"]
    return seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=ROOT / "corpora/demo")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--deaths", type=int, default=4)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    arguments = parser.parse_args()
    corpus = arguments.corpus.resolve()
    if not (corpus / "manifest.json").exists():
        sys.exit(f"{arguments.corpus}: prepare it first: manta prepare jobs/demo/corpus.yaml")
    os.environ["RECOVERY_CHECKPOINT_EVERY"] = str(CHECKPOINT_EVERY)
    print("| system | useful | steps again | pause, median s | worst s | a step, s | load |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(corpus, Path(folder))
        for system in arguments.systems:
            fault = f"{arguments.deaths}-of-{arguments.steps}"
            found = goodput(run_case(system, fault, Path(folder), corpus, SECONDS))
            cells = f"{found['useful']:.1%} | {found['again']} | {found['median']:.2f} | "
            cells += f"{found['worst']:.2f} | {found['step']:.3f} | {os.getloadavg()[0]:.1f}"
            print(f"| {system} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
