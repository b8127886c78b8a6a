"""The record's files on their way to the disk: a full disk, a crash, passwords."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from run_records import Open, on_disk, start

from manta.config.credentials import without_credentials
from manta.config.errors import RunError
from manta.record.history import Tail
from manta.record.run_record import SAVE_SECONDS
from manta.record.run_state import RunState


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


def test_nothing_is_left_aside(open_record: Open) -> None:
    record = open_record()
    record.finish("finished", reason="", final={"odd": Path("x"), "nan": float("nan")})
    assert not list(record.run_dir.glob("*.tmp")) + list(record.run_dir.glob(".*.tmp"))
    assert on_disk(record)["final"]["odd"] == "x"


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
    assert record.recorded == 1
    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        disk.setattr(os, "fsync", full)
        disk.setattr(record.history, "sync", lambda: None)
        for step in (2, 3):
            clock.now += 2 * SAVE_SECONDS
            record.add(training_row(step))
        record.checkpoint(step=3, tokens=30, path="x", seconds=1.0)
        assert record.recorded == 1
        with pytest.raises(RunError, match="the disk is full"):
            record.check_saved()
        assert on_disk(record)["totals"]["steps"] == 0
        assert not list(record.run_dir.glob(".*.tmp")), "what is half-written takes room"
    clock.now += 2 * SAVE_SECONDS
    record.add(training_row(4))
    assert record.recorded == 4
    assert [m.split(":")[0] for m in record.messages()] == [
        "the disk is full",
        "there is space again",
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
