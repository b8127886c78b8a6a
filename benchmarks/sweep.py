"""The reference sweep by the stage tree, by Ray Tune's grid and by Ray Tune with ASHA.

    python benchmarks/sweep.py [--rows tree,grid,asha] [--horizon TOKENS] [--out FILE] [--quick]

`tune_spaces/wsd_x_ramp.py`, 24 schedules on the demo's corpus: a Llama of 2.9M parameters, samples
of 128 tokens, batches of 8 that some schedules double, validation at the start and each fifth of
the horizon. Trials have one worker of one CPU and one thread; two run at a time.

    tree   `manta sweep`
    grid   Ray Tune, all trials from begin to end, a TorchTrainer for each
    asha   the same with ASHA: one in three goes on at 40 % of the horizon, where the batch ramps,
           which end at 35 %, can be told apart; before, all trials are nearly one training

The rows train the same: model, samples, rates, validation (see `sweep_stock.py`). Each is a process
with a Ray of its own, one after the other; its wall time is that process's. Times inside are taken
by the trials' own processes and workers, by the same few lines in all rows (`sweep_log.py`):

    start     from the call of a trial's function to its first step
    between   from a function's return to the call of the trial that takes its place
    held      what a stage that goes on in place waits for the checkpoint that others fork from

Evaluations count in none of these; a trial that ASHA stops does not return. With --out the rows
are added to FILE, and the table is of the newest of each row in it: a long measurement can be
made in parts. --quick is for trying this script: four of the trials and a short horizon.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT / "platform"), str(HERE)]

import psutil  # noqa: E402
import sweep_log  # noqa: E402
import yaml  # noqa: E402

ROWS = ("tree", "grid", "asha")
CORPUS = ROOT / "corpora/demo"
# About 30 s of training for a trial alone, on one core of the machine in RESULTS.md.
HORIZON, QUICK_HORIZON = 163_840, 32_768
CONCURRENT = 2
EVERY, EVALUATED = 20, 16_000  # percent of the horizon; tokens
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
ROW_SECONDS = 3600
SAMPLE_SECONDS = 1.0
TOLERANCE = 1e-5
Row = dict[str, Any]


# ------------------------------------------------------------------------ measuring


def prepare() -> None:
    """Have the demo's corpus."""
    if not (CORPUS / "manifest.json").exists():
        command = [sys.executable, "-m", "manta.cli", "prepare", "jobs/demo/corpus.yaml"]
        subprocess.run(command, cwd=ROOT, env=_environment(), check=True)


def write_sweep(folder: Path, horizon: int, quick: bool) -> Path:
    """The sweep's file, for all rows."""
    sizes = [f"model.sizes.{key}={value}" for key, value in SIZES.items()]
    overrides = [
        *(f"corpus={CORPUS}", *sizes, "train.micro_batch=16", "schedule.batch=8"),
        *("checkpoint.every=null", "wandb.mode=disabled"),
        *(f"eval.every={horizon * EVERY // 100}", f"eval.tokens={EVALUATED}"),
    ]
    sweep = {
        "sweep": {"name": "bench", "storage": str(folder / "runs")},
        "base": str(ROOT / "jobs/demo/run.yaml"),
        "overrides": overrides,
        "space": str(ROOT / "tune_spaces/wsd_x_ramp.py"),
        "search": {"type": "random", "trials": 4, "seed": 3} if quick else {"type": "grid"},
        "workers": {"min": 1},
        "concurrent": CONCURRENT,
        "horizon": horizon,
    }
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep))
    return file


def measure(name: str, horizon: int, quick: bool) -> Row:
    """One row, in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="swp", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        file, lines = write_sweep(folder, horizon, quick), folder / "lines"
        lines.mkdir()
        command = {"tree": [HERE / "sweep_tree.py", file]}.get(
            name, [HERE / "sweep_stock.py", name, file, folder]
        )
        output = folder / "output.txt"
        began = time.time()
        with output.open("w") as written:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                env={**_environment(), sweep_log.FOLDER: str(lines)},
                cwd=folder,
                stdout=written,
                stderr=subprocess.STDOUT,
            )
            used = _CpuSeconds(process.pid)
            used.start()
            try:
                code = process.wait(ROW_SECONDS)
            finally:
                process.terminate()
        wall = time.time() - began
        if code:
            sys.exit(f"{name}: exit status {code}\n{output.read_text()[-6000:]}")
        trials = sweep_log.read(lines)
        row = {"row": name, "horizon": horizon, "quick": quick, "wall": wall}
        row["cpu"] = used.total()
        found = _of_tree(file, trials) if name == "tree" else _of_stock(file, trials)
        return {**row, **found, **_times(trials)}


def _environment() -> dict[str, str]:
    paths = [str(ROOT / "platform"), str(HERE), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class _CpuSeconds(threading.Thread):
    """CPU time of a process and all below it, those that have ended included.

    Looked at now and then: the last moments of a process are lost.
    """

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._seen: dict[tuple[int, float], float] = {}

    def run(self) -> None:
        """Look until the process has ended."""
        while self._root.is_running():
            self._look()
            time.sleep(SAMPLE_SECONDS)

    def _look(self) -> None:
        try:
            found = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return
        for process in found:
            try:
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:
                continue

    def total(self) -> float:
        """Seconds."""
        return sum(self._seen.values())


def _of_tree(file: Path, trials: Mapping[str, sweep_log.Logged]) -> Row:
    """What the sweep's and the runs' records say, and what forks cost."""
    from manta.record.run_state import read_state
    from manta.record.sweep_state import read_sweep

    folder = file.parent / "runs/bench"
    state = read_sweep(folder)
    if bad := [trial.name for trial in state.trials if trial.status != "finished"]:
        sys.exit(f"tree: not finished: {', '.join(bad)}")
    parts = [
        group.start
        for trial in state.trials
        for group in read_state(folder / trial.name).groups[:1]
        if trial.parent is not None
    ]
    forks = {(trial.parent, trial.fork_tokens) for trial in state.trials if trial.parent}
    held = [trials[parent].held(tokens) for parent, tokens in sorted(forks)]
    forked = [trials[t.name].start for t in state.trials if t.parent and t.name in trials]
    return {
        "trained": state.tokens.trained,
        "apart": state.tokens.apart,
        "trials": {t.name: {"label": t.label, "value": t.value} for t in state.trials},
        "held": [seconds for seconds in held if seconds is not None],
        "forked": [seconds for seconds in forked if seconds is not None],
        "parts": {
            name: statistics.median(part[name] for part in parts if name in part)
            for name in dict.fromkeys(name for part in parts for name in part)
        },
    }


def _of_stock(file: Path, trials: Mapping[str, sweep_log.Logged]) -> Row:
    """What the trials' lines say; only trials that came to their end have a value."""
    from manta.config import load_sweep
    from manta.tune.sweep_plan import Outline

    known = Outline(load_sweep(file)).trials
    return {
        "trained": sum(logged.tokens for logged in trials.values()),
        "apart": sum(trial.end_tokens for trial in known),
        "trials": {
            trial.name: {
                "label": trial.label,
                "value": logged.value if logged.tokens == trial.end_tokens else None,
            }
            for trial in known
            if (logged := trials.get(trial.name)) is not None
        },
    }


def _times(trials: dict[str, sweep_log.Logged]) -> Row:
    starts = [logged.start for logged in trials.values()]
    return {
        "start": [seconds for seconds in starts if seconds is not None],
        "between": sweep_log.turnarounds(trials),
        "longest": max(logged.training for logged in trials.values()),
    }


# -------------------------------------------------------------------------- showing


def best(row: Row) -> str:
    """The trial with the smallest loss, of those that came to the end."""
    values = {name: t["value"] for name, t in row["trials"].items() if t["value"] is not None}
    return min(values, key=lambda name: (values[name], name))


def show_table(rows: Mapping[str, Row]) -> None:
    """A line for each row; medians of the times inside, with the largest."""
    names = "tokens", "of apart", "wall s", "of grid", "CPU s", "best", "its loss"
    heads = ["row", *names, "start s", "between s", "held s"]
    print("\n| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
    for name, row in rows.items():
        winner = row["trials"][best(row)]
        cells = [
            name,
            f"{row['trained']:,}",
            f"{row['trained'] / row['apart']:.3f}",
            f"{row['wall']:.0f}",
            f"{row['wall'] / rows['grid']['wall']:.2f}" if "grid" in rows else "",
            f"{row['cpu']:.0f}",
            f"{best(row)}: {winner['label']}",
            f"{winner['value']:.4f}",
            *(_spread(row.get(key, [])) for key in ("start", "between", "held")),
        ]
        print("| " + " | ".join(cells) + " |")
    if parts := rows.get("tree", {}).get("parts"):
        print("\ntree, start of a forked stage as its record has it, medians in seconds:")
        print("  " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items()))


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} (to {max(values):.2f})" if values else ""


def show_targets(rows: Mapping[str, Row]) -> None:
    """What was aimed at, as far as the rows are there."""
    tree, grid = rows.get("tree"), rows.get("grid")
    if tree is None:
        return
    print("\n| target | measured | met |\n| --- | --- | --- |")
    _target("tokens ≤ 1/3 of the trials apart", tree["trained"] / tree["apart"], 1 / 3, ".3f")
    if tree["held"]:
        held = statistics.median(tree["held"])
        _target("between chained stages ≤ 0.5 s", held, 0.5, ".2f")
    if grid is None:
        return
    _target("wall time ≤ 1/2 of the grid's", tree["wall"] / grid["wall"], 1 / 2, ".2f")
    if tree["forked"]:
        bare, ours = statistics.median(grid["start"]), statistics.median(tree["forked"])
        _target(f"start of a forked stage ≤ a TorchTrainer's ({bare:.2f} s)", ours, bare, ".2f")
    _target(f"losses as the grid's, to {TOLERANCE:g}", difference(tree, grid), TOLERANCE, ".1e")
    same = best(tree) == best(grid)
    print(f"| winner as the grid's | {best(tree)}, {best(grid)} | {_yes(same)} |")


def _target(what: str, measured: float, most: float, form: str) -> None:
    print(f"| {what} | {measured:{form}} | {_yes(measured <= most)} |")


def _yes(true: bool) -> str:
    return "yes" if true else "**no**"


def difference(one: Row, other: Row) -> float:
    """The largest relative difference of the trials' final losses."""
    ours, theirs = one["trials"], other["trials"]
    assert ours.keys() == theirs.keys()
    return max(abs(ours[n]["value"] / theirs[n]["value"] - 1.0) for n in ours)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=_rows, default=ROWS, help="of tree,grid,asha")
    parser.add_argument("--horizon", type=int, help="tokens of each trial")
    parser.add_argument("--out", type=Path, help="file that rows are added to")
    parser.add_argument("--quick", action="store_true", help="four trials, a short horizon")
    arguments = parser.parse_args()
    horizon = arguments.horizon or (QUICK_HORIZON if arguments.quick else HORIZON)
    prepare()
    rows = _kept(arguments.out, horizon, arguments.quick)
    for name in arguments.rows:
        row = rows[name] = measure(name, horizon, arguments.quick)
        load = os.getloadavg()[0]
        print(
            f"{name}: {row['wall']:.1f} s, {row['trained']:,} tokens, longest trial "
            f"{row['longest']:.1f} s of training  (load {load:.1f})",
            flush=True,
        )
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    rows = {name: rows[name] for name in ROWS if name in rows}
    show_table(rows)
    show_targets(rows)
    if arguments.quick:
        print("\nFour short trials share little: the targets are for the whole sweep.")
    if "tree" in rows and "grid" in rows and difference(rows["tree"], rows["grid"]) > TOLERANCE:
        sys.exit("the rows did not train the same: nothing above can be compared")


def _rows(text: str) -> list[str]:
    found = text.split(",")
    if unknown := set(found) - set(ROWS):
        raise argparse.ArgumentTypeError(f"no such rows: {', '.join(sorted(unknown))}")
    return found


def _kept(out: Path | None, horizon: int, quick: bool) -> dict[str, Row]:
    if out is None or not out.exists():
        return {}
    found = [json.loads(line) for line in out.read_text().splitlines()]
    same = (row for row in found if (row["horizon"], row["quick"]) == (horizon, quick))
    return {row["row"]: row for row in same}


if __name__ == "__main__":
    main()
