"""The run directory: totals over restarts, whose run it is, and who may write to it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manta.config import RunConfig, load
from manta.config.credentials import without_credentials
from manta.config.errors import RunError
from manta.config.mistakes import keys
from manta.corpus.manifest import Manifest
from manta.record.history import Tail
from manta.record.identity import binding_of, changes, free_keys, is_free
from manta.record.run_record import SAVE_SECONDS, RunRecord
from manta.record.run_state import GroupStart, RunState

Open = Callable[..., RunRecord]


@pytest.fixture
def open_record(make_config: Callable[..., RunConfig], manifest: Manifest, clock: Any) -> Open:
    def open_(eval_sample: str = "", **sections: Any) -> RunRecord:
        return RunRecord.open(
            make_config(**sections),
            manifest,
            total_steps=100,
            total_tokens=1000,
            eval_sample=eval_sample,
            clock=clock,
        )

    return open_


def on_disk(record: RunRecord) -> dict[str, Any]:
    return dict(json.loads((record.run_dir / "run.json").read_text()))


def start(record: RunRecord, world_size: int, step: int, attempt: int = 0) -> None:
    record.group_started(
        GroupStart(world_size, attempt, step=step, tokens=step * 10, hardware={"gpu": "X"})
    )


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
    assert totals["device_seconds"] == pytest.approx(4 * 10 + 2 * 6)
    assert totals["cost"] == pytest.approx(52 * 36 / 3600)
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


def test_another_config_is_refused_with_the_keys_that_differ(open_record: Open) -> None:
    open_record().close()
    with pytest.raises(RunError) as error:
        open_record(
            optimizer={"weight_decay": 0.5},
            schedule={"horizon": 1000, "lr": {"name": "constant", "peak": 0.2}, "batch": 1},
            model={"type": "gpt2", "sizes": {"n_layer": 3}},
        )
    message = str(error.value)
    assert "optimizer.weight_decay: 0.1 → 0.5" in message
    assert "schedule.lr: 0.1 → " in message
    assert "model.sizes.n_layer: 2 → 3" in message
    assert "run.name" in message
    open_record().close()  # The refusal left neither a lock nor another config.


def test_keys_that_change_no_weight_may_change(open_record: Open) -> None:
    open_record().close()
    record = open_record(scaling={"max": 7}, log={"every": 100}, eval={"every": 50})
    messages = [event.message for event in record.state.events]
    assert "config: scaling.max: (none) → 7" in messages
    assert load(record.run_dir / "config.yaml", RunConfig).scaling.max == 7


def test_a_run_bound_by_an_older_version_goes_on(open_record: Open, manifest: Any) -> None:
    """Older versions counted how a run is computed in what it is trained by."""
    record = open_record(train={"compile": True})
    config = load(record.run_dir / "config.yaml", RunConfig)
    older = binding_of(config, manifest.fingerprint, once=True)
    assert older != record.state.binding
    record.state.binding = older
    record.save()
    record.close()
    record = open_record(train={"compile": False})
    assert record.state.once_bound == older
    assert record.state.binding == binding_of(config, manifest.fingerprint)
    assert "config: train.compile: True → False" in [e.message for e in record.state.events]


def test_free_keys_are_keys_and_the_others_bind() -> None:
    everything = keys(RunConfig)
    for free in free_keys():
        assert any(key == free or key.startswith(f"{free}.") for key in everything), free
    binding = {"train.seq_len", "optimizer.eps", "run.seed", "schedule.horizon", "eval.tokens"}
    assert not any(is_free(key) for key in binding)


def test_changes_in_lists_name_the_item(make_config: Any) -> None:
    def with_end(value: float) -> RunConfig:
        segments = [{"tokens": 10, "from": 0.1}, {"shape": "linear", "to": value}]
        config: RunConfig = make_config(schedule={"horizon": 1000, "lr": segments, "batch": 1})
        return config

    assert [change.key for change in changes(with_end(0.2), with_end(0.3))] == ["schedule.lr.1.to"]


def test_another_corpus_is_refused(
    open_record: Open, make_config: Any, other_manifest: Manifest
) -> None:
    open_record().close()
    with pytest.raises(RunError, match="another corpus"):
        RunRecord.open(make_config(), other_manifest, total_steps=1, total_tokens=1)


def test_a_second_driver_is_refused(open_record: Open) -> None:
    record = open_record()
    with pytest.raises(RunError, match=f"another driver.*process {os.getpid()}"):
        open_record()
    record.close()
    open_record().close()


def test_a_killed_process_holds_nothing(open_record: Open, tmp_path: Path) -> None:
    record = open_record()
    run_dir = record.run_dir
    record.close()
    code = (
        "import sys, pathlib; from manta.storage.exclusive import RunLock;"
        "lock = RunLock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunError, match="another driver"):
        open_record()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    open_record().close()


def test_a_storage_that_is_a_file_is_refused(open_record: Open, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"set run\.storage"):
        open_record(run={"name": "one", "storage": str(tmp_path / "file")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "{}", r"'name' is missing, and \d+ more like it; it was changed"),
        (
            lambda text: text[: len(text) // 2],
            r"it is no JSON \(.* line \d+ column \d+ .*\); it was",
        ),
        (lambda text: text.replace('"running"', '"x"'), r"its seal doesn't fit: it was changed"),
        (lambda text: "", r"it is no JSON \(Expecting value"),
    ],
)
def test_a_damaged_record_is_refused_by_name_in_a_line(
    open_record: Open, change: Callable[[str], str], message: str
) -> None:
    record = open_record()
    record.close()
    file = record.run_dir / "run.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(
        RunError, match=rf"run\.json: can't be read as a run record: {message}"
    ) as e:
        open_record()
    assert "\n" not in str(e.value)
    assert "validation error" not in str(e.value)


def test_passwords_are_not_written(open_record: Open) -> None:
    record = open_record(corpus="https://me:secret@host/corpus")
    record.event("can't read https://me:secret@host/x")
    record.finish("failed", reason="https://me:secret@host", final={})
    for path in record.run_dir.rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes(), path
    record.close()
    open_record(corpus="https://me:other@host/corpus").close()


def test_without_credentials() -> None:
    assert without_credentials("s3://k:s@b/p and a@b") == "s3://b/p and a@b"


def test_changed_packages_are_an_event(open_record: Open) -> None:
    record = open_record()
    record.state.packages["torch"] = "0.0.1"
    record.save()
    record.close()
    again = open_record()
    assert any("package: torch 0.0.1 →" in event.message for event in again.state.events)


def test_nothing_is_left_aside(open_record: Open) -> None:
    record = open_record()
    record.finish("finished", reason="", final={"odd": Path("x"), "nan": float("nan")})
    assert not list(record.run_dir.glob("*.tmp")) + list(record.run_dir.glob(".*.tmp"))
    assert on_disk(record)["final"]["odd"] == "x"


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


def test_a_crash_in_a_rewind_damages_nothing(
    open_record: Open, training_row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are cut off already, and the record was not written again."""
    record = open_record()
    start(record, 1, 0)
    for step in (1, 2, 3):
        record.add(training_row(step))
    record.save()

    def crashed(*_: Any) -> None:
        raise InterruptedError

    with monkeypatch.context() as crash:
        crash.setattr(RunState, "take_results", crashed)
        with pytest.raises(InterruptedError):
            record.rewound(1)
    record.close()

    again = open_record()
    assert again.messages() == []
    assert again.history.last("training") == 1
    assert [path.name for path in again.history.path.parent.glob("metrics.*")] == ["metrics.jsonl"]


def test_a_full_disk_is_survived_and_said_once(
    open_record: Open, clock: Any, training_row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    record = open_record()
    start(record, 1, 0)
    record.add(training_row(1))
    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        disk.setattr(os, "fsync", full)
        disk.setattr(record.history, "sync", lambda: None)
        for step in (2, 3):
            clock.now += 2 * SAVE_SECONDS
            record.add(training_row(step))
        record.checkpoint(step=3, tokens=30, path="x", seconds=1.0)
        assert not record.up_to_date
        with pytest.raises(RunError, match="the disk is full"):
            record.check_saved()
        assert on_disk(record)["totals"]["steps"] == 0
        assert not list(record.run_dir.glob(".*.tmp")), "what is half-written takes room"
    clock.now += 2 * SAVE_SECONDS
    record.add(training_row(4))
    assert record.up_to_date
    assert [m.split(":")[0] for m in record.messages()] == [
        "the disk is full",
        "there is room again",
    ]
    assert on_disk(record)["totals"]["steps"] == 4
    assert [row["step"] for row in Tail(record.history.path).rows()] == [1, 2, 3, 4]


def test_a_disk_that_is_full_at_the_start_is_said(
    open_record: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"can't be written to: No space left.*same command"):
            open_record()
    open_record()


def bytes_read() -> int:
    """What this process, and those that it waited for, have read of files."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_taking_up_a_run_does_not_read_its_rows_again(
    open_record: Open, training_row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither once many are there, nor after a start that added some; its end reads them all."""
    # What a start looks up beside the run's files is the same every time, and no part of this.
    monkeypatch.setattr("manta.record.provenance.git_state", lambda folder: None)

    def taken_up(first: int, count: int) -> int:
        before = bytes_read()
        record = open_record()
        read = bytes_read() - before
        if not record.state.groups:
            start(record, 1, 0)
        for step in range(first, first + count):
            record.add(training_row(step))
        record.save()
        record.close()
        return read

    taken_up(1, 10)
    few = taken_up(11, 5000)
    rows = tmp_path / "runs" / "one" / "metrics.jsonl"
    many = [taken_up(5011, 10), taken_up(5021, 1)]
    assert rows.stat().st_size > 100 * abs(max(many) - few)
    assert max(many) < few + 2000

    rows.write_bytes(rows.read_bytes().replace(b'"step": 1000, ', b'"step": 1000.,', 1))
    assert taken_up(5022, 1) < few + 2000
    record = open_record()
    record.finish("finished", reason="", final={})
    assert record.messages() == []
    record.recheck_history()
    said = record.messages()
    assert "was changed after it was written" in said[0]
    assert "1 of its lines (1000) are damaged" in said[1]
    record.save()
    record.close()
    assert on_disk(record)["history"]["unproven"] == 5022
