"""`manta sweep` with W&B: killed, interrupted and taken up again; read back from the server."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import copy_of_manta
from copied import Copied
from tiny_config import STEP, run_config, write_yaml
from wandb_server import API_KEY, WandbServer

from manta.config.metrics import in_wandb
from manta.record.run_state import read_state
from manta.record.sweep_state import SweepState, SweepTrial, read_sweep
from manta.record.verify_run import verify

STEPS = 200
DECAYS = ["50%", "25%", "12.5%"]
SPACE = f'''"""Which decay?"""

from ray import tune

space = {{"schedule.lr.decay": tune.grid_search({DECAYS})}}
'''


@dataclass
class Seen:
    """A finished sweep, and what was there on the way.

    Attributes:
        folder: of the sweep.
        state: at its end.
        server: what W&B has of it.
        killed: its state after the driver was killed.
        interrupted: its state after Ctrl-C.
        summary_then: what W&B had of the sweep after Ctrl-C.
        outputs: what people saw, of the command that was interrupted and of the last.
    """

    folder: Path
    state: SweepState
    server: WandbServer
    killed: SweepState
    interrupted: SweepState
    summary_then: dict[str, Any]
    outputs: tuple[str, str]

    def id_of(self, trial: SweepTrial) -> str:
        return read_state(self.folder / trial.name).wandb.id

    @property
    def id(self) -> str:
        """Of the sweep's own run."""
        assert self.state.wandb is not None
        return self.state.wandb.id


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., Any]
) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("sweep")
    texts = {"train": [[5, 9, 30] * 20, [17] * 60], "validation": [[11] * 30]}
    make_corpus(folder / "corpus", texts, vocab_size=61)
    base = run_config(
        folder / "runs",
        folder / "corpus",
        schedule={
            "horizon": STEPS * STEP,
            "lr": {"name": "wsd", "peak": 1e-2, "warmup": STEP, "decay": "25%"},
        },
        eval={"every": 50 * STEP, "tokens": 160},
        checkpoint={"every": 10 * STEP},
        wandb={"project": "p", "tags": ["mine"]},
        scaling={"min": 1, "resources_per_worker": {"CPU": 1}},
        cost={"per_device_hour": 2.0},
    )
    write_yaml(folder / "run.yaml", base)
    (folder / "space.py").write_text(SPACE)
    named = {"name": "tiny", "storage": str(folder / "runs")}
    sections = {"sweep": named, "base": "run.yaml", "space": "./space.py", "concurrent": 2}
    path = write_yaml(folder / "sweep.yaml", sections)
    runs = folder / "runs" / "tiny"
    server = WandbServer()
    try:
        kill_with_two_trials(start(path, server), runs)
        killed = read_sweep(runs)
        interrupted, first = interrupt_as_it_goes_on(start(path, server), runs)
        assert interrupted.wandb is not None, first
        then = server.summary(interrupted.wandb.id)
        last = start(path, server)
        output = last.communicate(timeout=300)[0]
        assert last.returncode == 0, output
        yield Seen(runs, read_sweep(runs), server, killed, interrupted, then, (first, output))
    finally:
        server.close()


def kill_with_two_trials(process: Copied, runs: Path) -> None:
    """End the command as a power cut would, once two trials have trained something."""
    wait_for(process, lambda: len(trained(runs)) >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def interrupt_as_it_goes_on(process: Copied, runs: Path) -> tuple[SweepState, str]:
    """Ctrl-C once a trial has trained more than before; returns state and output."""
    wait_for_line(process, " trains from ")
    before = sum(trained(runs).values())
    wait_for(process, lambda: sum(trained(runs).values()) > before)
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 130, output
    return read_sweep(runs), output


def start(path: Path, server: WandbServer) -> Copied:
    environment = {
        **os.environ,
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": API_KEY,
        "WANDB_ERROR_REPORTING": "false",
    }
    without_mode = {k: v for k, v in environment.items() if k != "WANDB_MODE"}
    return copy_of_manta("sweep", str(path), environment=without_mode)


def wait_for(process: Copied, what: Callable[[], bool]) -> None:
    while not what():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def wait_for_line(process: Copied, text: str) -> None:
    """Return once the command has printed `text`."""
    assert process.stdout is not None
    while text not in (line := process.stdout.readline()):
        assert line, "the command ended"


def trained(runs: Path) -> dict[str, int]:
    """Rows that each trial has in its history."""
    return {
        path.parent.name: len(path.read_text().splitlines())
        for path in runs.glob("t*/metrics.jsonl")
    }


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """A run's own history as W&B has it: both kinds of rows of a step in one."""
    merged: dict[int, dict[str, Any]] = {}
    for line in (run_dir / "metrics.jsonl").open():
        row = json.loads(line)
        merged.setdefault(row["step"], {"_step": row["step"]}).update(row)
    plain = ({k: v for k, v in row.items() if k != "step"} for row in merged.values())
    return [{k: v for k, v in row.items() if v is not None} for row in plain]


def test_killed_and_interrupted_the_same_command_goes_on(seen: Seen) -> None:
    interrupted, last = seen.outputs
    assert "the same command continues the sweep" in interrupted
    assert "Traceback" not in interrupted, interrupted
    assert "Traceback" not in last, last
    assert seen.killed.status == "running"
    assert seen.interrupted.status == "interrupted"
    for before, after in zip(seen.killed.trials, seen.interrupted.trials, strict=True):
        assert before.status != "finished" or after.status == "finished"
    assert {trial.status for trial in seen.state.trials} == {"finished"}
    assert seen.state.tokens.trained == seen.state.tokens.shared
    for trial in seen.state.trials:
        assert verify(seen.folder / trial.name).lines()
        steps = [row["_step"] for row in rows_of(seen.folder / trial.name) if "loss" in row]
        assert steps == list(range(1, STEPS + 1))


def test_another_base_under_the_same_name_is_refused(seen: Seen) -> None:
    folder = seen.folder.parents[1]
    base = yaml.safe_load((folder / "run.yaml").read_text())
    write_yaml(folder / "run.yaml", {**base, "optimizer": {"eps": 1e-7}})
    refused = start(folder / "sweep.yaml", seen.server)
    output = refused.communicate(timeout=300)[0]
    assert refused.returncode == 1
    assert "choose another sweep.name" in output


def test_every_trial_has_its_whole_history_once(seen: Seen) -> None:
    opened = [seen.server.opened.count(seen.id_of(trial)) for trial in seen.state.trials]
    assert max(opened) > 1, "one of them was interrupted and taken up again"
    assert {trial.status for trial in seen.state.trials} == {"finished"}
    for trial in seen.state.trials:
        rows = seen.server.history(seen.id_of(trial))
        # From the evaluation before the first step on.
        assert [row["_step"] for row in rows] == list(range(STEPS + 1)), trial.name
        assert rows == [
            {in_wandb(key) if key != "_step" else key: value for key, value in row.items()}
            for row in rows_of(seen.folder / trial.name)
        ]


def test_trials_are_told_apart_and_held_together(seen: Seen) -> None:
    for trial, decay in zip(seen.state.trials, DECAYS, strict=True):
        name = seen.id_of(trial)
        run = seen.server.runs[name]
        assert (run["displayName"], run["groupName"], run["jobType"]) == (
            f"{trial.name} decay={decay}",
            "tiny",
            "trial",
        )
        assert run["tags"] == ["mine", "sweep", "space:space"]
        config = seen.server.config(name)
        assert config["sweep"] == {
            "name": "tiny",
            "label": f"decay={decay}",
            "seed": 3,
            "decay": decay,
            "decay_tokens": config["numbers"]["lr_decay_tokens"],
            "decay_share": pytest.approx(float(decay.rstrip("%")) / 100, rel=1e-3),
        }
        assert config["schedule"]["lr"]["decay"] == decay


def test_summaries_have_results_costs_and_the_path(seen: Seen) -> None:
    own = 0
    for trial in seen.state.trials:
        name = seen.id_of(trial)
        summary = seen.server.summary(name)
        values = [r["val_loss"] for r in rows_of(seen.folder / trial.name) if "val_loss" in r]
        assert (summary["metric"], summary["best_metric"]) == (values[-1], min(values))
        assert summary["metric"] == trial.value
        assert summary["tokens"] == STEPS * STEP
        assert summary["own_tokens"] == STEPS * STEP - trial.fork_tokens
        above = [f"{trial.parent}@{trial.fork_tokens}"] if trial.parent else []
        assert summary["path"][-1 - len(above) :] == [*above, f"{trial.name}@{STEPS * STEP}"]
        assert summary["cost"] == pytest.approx(2.0 * summary["device_hours"])
        share = summary["own_compute_hours"] / summary["compute_hours"]
        assert share == 1 if trial.parent is None else 0 < share < 1
        assert seen.server.ended[name] == 0
        own += summary["own_tokens"]
    assert own == seen.state.tokens.trained


def test_the_sweep_is_one_run_of_its_own(seen: Seen) -> None:
    assert seen.summary_then["status"] == "interrupted"
    assert seen.interrupted.wandb is not None
    assert seen.interrupted.wandb.id == seen.id
    run = seen.server.runs[seen.id]
    assert (run["displayName"], run["groupName"], run["jobType"]) == ("tiny", "tiny", "sweep")
    summary = seen.server.summary(seen.id)
    assert (summary["status"], summary["trials_finished"]) == ("finished", 3)
    page = seen.server.files[f"{seen.id}/{summary['comparison']['path']}"]
    assert page == (seen.folder / "compare.html").read_bytes()
    table = json.loads(seen.server.files[f"{seen.id}/{summary['trials']['path']}"])
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["name"], row["decay"]) for row in rows] == [
        (trial.name, trial.label.partition("=")[2]) for trial in seen.state.trials
    ]
    for row, trial in zip(rows, seen.state.trials, strict=True):
        assert (row["metric"], row["parent"]) == (trial.value, trial.parent)
        assert row["own_tokens"] == STEPS * STEP - trial.fork_tokens
    assert seen.state.wandb is not None
    assert f"W&B: {seen.state.wandb.url}" in seen.outputs[-1]
