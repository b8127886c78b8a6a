"""What the record of a run holds: totals over restarts, results, checkpoints, rewinds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from run_records import Open, on_disk, start

from manta.config import RunConfig, load
from manta.corpus.manifest import Manifest
from manta.record.run_record import SAVE_SECONDS, RunRecord
from manta.record.run_state import GroupStart


def test_a_new_directory(open_record: Open, make_config: Any, manifest: Manifest) -> None:
    record = open_record()
    state = on_disk(record)
    assert state["status"] == "running"
    assert state["corpus_fingerprint"] == manifest.fingerprint
    assert state["hardware"]["cpu_count"] >= 1
    assert state["hardware"]["memory_bytes"] > 0
    assert state["packages"]["wandb"]
    assert load(record.run_dir / "config.yaml", RunConfig) == make_config()
    assert (record.run_dir / "checkpoints").is_dir()


def test_totals_over_a_restart_of_the_workers(
    open_record: Open, clock: Any, training_row: Any
) -> None:
    record = open_record(cost={"per_device_hour": 36.0})
    start(record, 4, 0)
    for step in range(1, 11):
        clock.now += 1
        record.add(training_row(step))
    record.group_ended(reason="node lost")
    clock.now += 5
    start(record, 2, 6, attempt=1)
    for step in range(7, 13):
        clock.now += 1
        record.add(training_row(step))
    record.finish("finished", reason="", final={"x": 1})

    totals = on_disk(record)["totals"]
    assert totals["steps"] == 12
    assert totals["tokens"] == 120
    assert totals["samples"] == 12
    assert totals["tokens_again"] == 40
    assert totals["wall_seconds"] == pytest.approx(21)
    assert totals["device_seconds"] == pytest.approx(4 * 10 + 2 * (5 + 6))
    assert totals["cost"] == pytest.approx(62 * 36 / 3600)
    groups = on_disk(record)["groups"]
    assert [(g["world_size"], g["step"], g["last_step"], g["reason"]) for g in groups] == [
        (4, 0, 10, "node lost"),
        (2, 6, 12, "finished"),
    ]
    steps = [row["step"] for row in map(json.loads, record.history.path.open())]
    assert steps == list(range(1, 13))


def test_totals_over_a_killed_driver(open_record: Open, clock: Any, training_row: Any) -> None:
    record = open_record()
    start(record, 3, 0)
    for step in range(1, 11):
        clock.now += SAVE_SECONDS
        record.add(training_row(step))
    record.close()  # What a kill leaves: nothing more is written.
    clock.now += 1000

    record = open_record()
    assert record.state.groups[-1].reason == "the driver was killed"
    start(record, 3, 4)
    for step in range(5, 13):
        clock.now += SAVE_SECONDS
        record.add(training_row(step))
    record.finish("stopped", reason="no better", final={})
    state = on_disk(record)
    assert state["drivers"] == 2
    assert state["status"] == "stopped"
    assert state["totals"]["wall_seconds"] == pytest.approx(18 * SAVE_SECONDS)
    assert state["totals"]["device_seconds"] == pytest.approx(18 * 3 * SAVE_SECONDS)
    assert state["totals"]["tokens"] == 120
    assert state["totals"]["tokens_again"] == 60


@pytest.mark.parametrize("asked", [None, "any_world_size"])
def test_devices_of_another_kind_are_told_where_they_matter(open_record: Open, asked: Any) -> None:
    record = open_record(train={"reproducible": asked})
    for kind in ("H100", "H100", "H200"):
        record.group_started(GroupStart(1, 1, step=0, tokens=0, hardware={"kind": kind}))
    told = [message for message in record.messages() if "devices of one kind" in message]
    assert len(told) == (0 if asked is None else 1)
    assert all("continues on H200 after H100" in message for message in told)


def test_gpus_of_a_worker_are_its_devices(open_record: Open, clock: Any) -> None:
    record = open_record(scaling={"resources_per_worker": {"CPU": 8, "GPU": 2}})
    start(record, 3, 0)
    clock.now += 10
    record.group_ended(reason="done")
    assert on_disk(record)["totals"]["device_seconds"] == pytest.approx(60)


def test_validation_keeps_the_best(open_record: Open) -> None:
    record = open_record()
    for step, value in ((1, 3.0), (2, 2.0), (3, 2.5)):
        record.add({"step": step, "tokens": step * 10, "val_loss": value})
    results = record.state.results
    assert (results.val_loss, results.best_val_loss, results.best_val_step) == (2.5, 2.0, 2)


def test_losses_of_other_samples_are_not_compared(open_record: Open) -> None:
    def rows(record: RunRecord, values: dict[int, float]) -> None:
        for step, value in values.items():
            by_source = {"val_loss/web": value - 1, "val_loss/code": None}
            record.add({"step": step, "tokens": step * 10, "val_loss": value, **by_source})

    record = open_record()  # as an older version left it
    rows(record, {1: 3.0, 2: 1.0})
    record.close()
    record = open_record(eval_sample="a")
    (said,) = record.messages()
    assert "validation losses from step 3 on are of other samples than those up to step 2" in said
    assert record.state.results.best_val_loss is None
    rows(record, {3: 2.5, 4: 2.6})
    record.rewound(3)  # what came before is read again
    results = record.state.results
    assert (results.val_loss, results.best_val_loss, results.best_val_step) == (2.5, 2.5, 3)
    assert results.val_loss_by_source == {"web": 1.5}
    record.close()

    record = open_record(eval_sample="a")
    assert record.messages() == []
    assert record.state.results.best_val_loss == 2.5


def test_a_checkpoint_is_remembered(open_record: Open) -> None:
    record = open_record()
    for step in (3, 6):
        record.checkpoint(step=step, tokens=step * 10, path=f"c/{step}", seconds=0.5)
    found = on_disk(record)["checkpoint"]
    assert found == {"step": 6, "tokens": 60, "path": "c/6", "seconds": 0.5, "count": 2}


def test_a_rewind_takes_back_what_was_recorded(open_record: Open, training_row: Any) -> None:
    record = open_record()
    start(record, 2, 0)
    for step in (1, 2, 3, 4):
        record.add(training_row(step))
        record.add({"step": step, "tokens": step * 10, "val_loss": 10.0 - step})
    record.checkpoint(step=4, tokens=40, path="c/4", seconds=0.5)
    record.rewound(2)
    found = on_disk(record)
    assert found["checkpoint"] is None
    assert found["results"]["loss"] == training_row(2)["loss"]
    assert (found["results"]["best_val_loss"], found["results"]["best_val_step"]) == (8.0, 2)
    record.rewound(2)  # told again after a crash
    record.add({"step": 3, "tokens": 30, "skipped": True})
    record.add(training_row(4))
    record.close()
    rows = [json.loads(line) for line in record.history.path.open()]
    assert [row["step"] for row in rows if "val_loss" not in row] == [1, 2, 3, 4]
