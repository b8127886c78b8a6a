"""A trial of a sweep in W&B: an ordinary run, with the sweep beside its config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from manta.config import RunConfig
from manta.corpus.manifest import Manifest
from manta.record.context import RunContext
from manta.record.history import write_rows
from manta.record.run_state import Fork, GroupStart, read_state, write_fork
from manta.show.tracker import PAUSED, Tracker

SWEEP = {"name": "s", "label": "peak=0.1 decay=25%", "seed": 7, "peak": 0.1, "decay": "25%"}
CONTEXT = RunContext(job_type="trial", config={"sweep": SWEEP}, label="peak=0.1 decay=25%")

Row = Callable[[int], dict[str, Any]]


def open_(config: RunConfig, manifest: Manifest) -> Tracker:
    return Tracker.open(
        config, manifest, total_steps=30, total_tokens=300, console=False, context=CONTEXT
    )


def train(tracker: Tracker, row: Row, steps: range) -> None:
    start = GroupStart(2, attempt=0, step=steps[0] - 1, tokens=steps[0] * 10 - 10, hardware={})
    tracker.group_started(start)
    for step in steps:
        tracker.metrics(row(step))
        if step % 10 == 0:
            tracker.metrics({"step": step, "tokens": step * 10, "val_loss": 1 + (step - 20) ** 2})


def test_a_fork_that_was_paused_shows_its_whole_history_once(
    make_config: Callable[..., RunConfig],
    manifest: Manifest,
    training_row: Row,
    wandb_server: Any,
) -> None:
    config = make_config(
        wandb={"mode": "auto", "group": "s", "tags": ["sweep"]}, cost={"per_device_hour": 3600}
    )
    run_dir = Path(config.run.storage) / config.run.name
    run_dir.mkdir(parents=True)
    # What `fork` lays there: the parent's rows.
    write_rows(run_dir / "metrics.jsonl", [training_row(step) for step in range(1, 13)])
    write_fork(
        run_dir, Fork(run="b", step=12, tokens=120, before=[Fork(run="a", step=5, tokens=50)])
    )

    first = open_(config, manifest)
    train(first, training_row, range(13, 21))
    first.finish("interrupted", reason=PAUSED)
    name = read_state(run_dir).wandb.id
    assert wandb_server.ended[name] == 0, "a trial that loses has not failed"
    again = open_(config, manifest)
    train(again, training_row, range(18, 31))
    again.finish("finished")

    assert [row["_step"] for row in wandb_server.history(name)] == list(range(1, 31))
    run = wandb_server.runs[name]
    assert (run["groupName"], run["jobType"], run["tags"]) == ("s", "trial", ["sweep"])
    assert run["displayName"] == "one peak=0.1 decay=25%"
    numbers = {"decay_share": 0.25, "decay_tokens": 250}
    assert wandb_server.config(name)["sweep"] == {**SWEEP, **numbers}
    assert wandb_server.config(name)["schedule"]["horizon"] == "1K"
    summary = wandb_server.summary(name)
    assert (summary["metric"], summary["best_metric"]) == (101, 1)
    assert (summary["tokens"], summary["own_tokens"]) == (300, 180)
    assert summary["path"] == ["a@50", "b@120", "one@300"]
    seconds = [2 * 10 / (1000 + step) for step in range(1, 31)]
    assert abs(summary["compute_hours"] - sum(seconds) / 3600) < 1e-9
    assert abs(summary["own_compute_hours"] - sum(seconds[12:]) / 3600) < 1e-9
    totals = read_state(run_dir).totals
    assert summary["device_hours"] == totals.device_seconds / 3600 > 0
    assert summary["cost"] == totals.cost
