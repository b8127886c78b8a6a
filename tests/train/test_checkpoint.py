"""Checkpoints: whole or not there, kept as asked, passed over when damaged."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from plain_runs import engine_of, ledger, loop_of, losses, streams_of
from small_disk import SmallDisk, small_disk
from whole_runs import train_whole

from manta.config.errors import RunError
from manta.elastic.checks.preflight import check
from manta.record.aside import set_aside
from manta.state import checkpoint_files
from manta.state.checkpoint_files import name_of, newest, read_state, whole
from manta.state.dcp import Reader
from manta.stream.ledger import Ledger

STEP = 16 * 7  # tokens


def train_here(run) -> list[Path]:
    """Train in this process; returns the whole checkpoints, oldest first."""
    run.run_dir.mkdir(parents=True, exist_ok=True)
    loop_of(run, engine_of(run), run.run_dir / "rows.jsonl").run(streams_of(run))
    return whole(run.run_dir / "checkpoints")


def rows_of(run) -> list[dict]:
    import json

    return [json.loads(line) for line in (run.run_dir / "rows.jsonl").read_text().splitlines()]


def test_the_newest_and_the_best_are_kept(checked) -> None:
    run = checked(
        {"checkpoint": {"every": 2 * STEP, "keep": 2}, "eval": {"every": 4 * STEP, "tokens": 160}}
    )
    kept = [read_state(path) for path in train_here(run)]
    evaluated = {r["step"]: r["val_loss"] for r in rows_of(run) if "val_loss" in r}
    best = min((loss, step) for step, loss in evaluated.items() if step)[1]
    assert [state.step for state in kept] == sorted({best, 10, 12})
    assert kept[-1].val_loss == evaluated[12]
    assert kept[-1].cursor == 12 * 7
    assert kept[-1].tokens == 12 * STEP


def test_checkpoints_at_token_counts_are_kept_and_not_counted(checked) -> None:
    asked = {"every": 2 * STEP, "keep": 1, "at": [STEP, 4 * STEP + 1, 99 * STEP]}
    run = checked({"checkpoint": asked, "eval": {"at": [3 * STEP - 1], "tokens": 160}})
    assert [read_state(path).step for path in train_here(run)] == [1, 5, 12]
    evaluated = [r["step"] for r in rows_of(run) if "val_loss" in r]
    assert evaluated == [0, 3, 12]


def _truncate(path: Path) -> None:
    data = next(path.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-100])


def _lose_a_file(path: Path) -> None:
    next(path.glob("*.distcp")).unlink()


def _lose_the_state(path: Path) -> None:
    (path / "state.json").unlink()


def _garble(path: Path) -> None:
    """The same size, other content: found only when it is loaded."""
    metadata = path / ".metadata"
    metadata.write_bytes(bytes(len(metadata.read_bytes())))


def _zero_the_data(path: Path) -> None:
    data = next(path.glob("*.distcp"))
    data.write_bytes(bytes(data.stat().st_size))


def flip(path: Path, where: float = 0.5) -> None:
    """Turn one bit of a file over, at a part of its length."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 4
    path.write_bytes(content)


def _flip_a_weight(path: Path) -> None:
    """A number becomes another one: nothing but a checksum can tell."""
    data = next(path.glob("*.distcp"))
    content = bytearray(data.read_bytes())
    entries = Reader(path, "", {}).read_metadata().storage_data
    info = next(info for index, info in entries.items() if index.fqn.endswith("lm_head.weight"))
    content[info.offset + info.length // 2] ^= 4
    data.write_bytes(content)


def _flip_a_key(path: Path) -> None:
    state = path / "state.json"
    state.write_bytes(state.read_bytes().replace(b'"cursor"', b'"cursos"'))


def _flip_a_number(path: Path) -> None:
    state = path / "state.json"
    state.write_bytes(state.read_bytes().replace(b'"cursor": 84', b'"cursor": 85'))


DAMAGES = [
    *(_truncate, _lose_a_file, _lose_the_state, _garble),
    *(_zero_the_data, _flip_a_weight, _flip_a_key, _flip_a_number),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_by_name(checked, caplog, damage) -> None:
    run = checked({"checkpoint.every": 4 * STEP})
    reference = losses_after(run)
    damage(run.run_dir / "checkpoints" / name_of(12))
    with caplog.at_level(logging.WARNING, "manta"):
        paths = train_here(run)
    assert name_of(12) in caplog.text
    assert [row["resumed"] for row in rows_of(run) if "resumed" in row] == [0, 8]
    # Steps 9 to 12 came twice, with the same losses (`losses` sees to that).
    assert losses(rows_of(run)) == reference
    assert [row["step"] for row in ledger(run)] == list(range(1, 13))
    assert checkpoint_files.damage(paths[-1]) is None
    assert paths[-1].name == name_of(12)


@pytest.mark.parametrize("damage", [_lose_the_state, _zero_the_data, _flip_a_weight, _flip_a_key])
def test_without_a_whole_checkpoint_the_run_stops_and_says_so(checked, damage) -> None:
    run = checked({"checkpoint": {"every": 6 * STEP, "keep": 1}})
    [path] = train_here(run)
    damage(path)
    kept = {file.name: file.read_bytes() for file in path.iterdir()}
    before = rows_of(run)
    with pytest.raises(RunError, match=rf"none that .* from:\n  {path.name}: .*\n.*--restart"):
        train_here(run)
    assert rows_of(run) == before, "not a step was trained"
    assert {file.name: file.read_bytes() for file in path.iterdir()} == kept


def test_what_was_passed_over_is_kept_and_not_counted(checked) -> None:
    """Else the one checkpoint to keep would be a damaged one, and the good one would go."""
    run = checked({"checkpoint": {"every": 4 * STEP, "keep": 2}})
    train_here(run)
    folder = run.run_dir / "checkpoints"
    _flip_a_weight(folder / name_of(12))
    again = checked({"checkpoint": {"every": 3 * STEP, "keep": 1}})
    loop = loop_of(again, engine_of(again), run.run_dir / "rows.jsonl")
    with suppress(InterruptedError):
        loop.run(stopping(again, 11))
    assert [path.name for path in whole(folder)] == [name_of(9)]
    assert sorted(path.name for path in folder.iterdir()) == [name_of(9), f"unused-{name_of(12)}"]


def stopping(run, after: int):
    """The streams of a run whose process is lost after a step."""

    def streams(cursor: int):
        for batch in streams_of(run)(cursor):
            yield batch
            if batch.step.number == after:
                raise InterruptedError

    return streams


def test_a_lost_part_of_the_ledger_costs_what_came_after_it(checked, caplog) -> None:
    run = checked({"checkpoint.every": 4 * STEP})
    reference = losses_after(run)
    parts = sorted((run.run_dir / "ledger.parquet").iterdir())
    parts[-1].unlink()
    with caplog.at_level(logging.WARNING, "manta"):
        train_here(run)
    assert f"{name_of(12)} can't be used (the ledger ends with step 8" in caplog.text
    assert [row["resumed"] for row in rows_of(run) if "resumed" in row] == [0, 8]
    assert losses(rows_of(run)) == reference
    assert [row["step"] for row in ledger(run)] == list(range(1, 13))


@pytest.mark.parametrize("number", [0, 1])
def test_a_lost_part_that_no_checkpoint_comes_before_stops_the_run(checked, number) -> None:
    run = checked({"checkpoint": {"every": 4 * STEP, "keep": 1}})
    train_here(run)
    sorted((run.run_dir / "ledger.parquet").iterdir())[number].unlink()
    with pytest.raises(RunError, match=rf"{name_of(12)}: the ledger ends with step {4 * number}:"):
        train_here(run)


def test_a_damaged_part_of_the_ledger_is_told_and_made_anew(checked, caplog) -> None:
    run = checked({"checkpoint.every": 4 * STEP})
    train_here(run)
    whole_ledger = ledger(run)
    newest_part = sorted((run.run_dir / "ledger.parquet").iterdir())[-1]
    flip(newest_part, 0.3)
    with caplog.at_level(logging.WARNING, "manta"):
        train_here(run)
    assert newest_part.name in caplog.text
    assert ledger(run) == whole_ledger


def losses_after(run) -> dict[int, float]:
    train_here(run)
    return losses(rows_of(run))


def test_a_half_written_checkpoint_does_not_count(checked) -> None:
    run = checked({"checkpoint.every": 4 * STEP})
    train_here(run)
    folder = run.run_dir / "checkpoints"
    (folder / name_of(12)).rename(folder / f".tmp-{name_of(12)}")
    assert newest(folder).name == name_of(8)
    assert [p.name for p in train_here(run)][-1] == name_of(12)
    assert not list(folder.glob(".tmp-*"))


def test_no_checkpoint_is_an_error_for_who_needs_one(tmp_path) -> None:
    with pytest.raises(RunError, match="no whole checkpoint"):
        newest(tmp_path)


def test_metric_rows_travel_with_the_checkpoint(checked) -> None:
    run = checked({"checkpoint.every": 4 * STEP})
    train_here(run)
    carried = checkpoint_files.read_rows(run.run_dir / "checkpoints" / name_of(12))
    assert [row["step"] for row in carried] == list(range(1, 13))
    train_here(run)
    assert rows_of(run)[-1] == {"resumed": 12, "source": "checkpoint", "carried": carried}


def test_a_finished_run_is_left_alone(checked) -> None:
    run = checked()
    path = train_here(run)[-1]
    before = (path / "state.json").stat()
    assert train_here(run) == [path]
    assert (path / "state.json").stat().st_mtime_ns == before.st_mtime_ns


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as found:
        yield found


def train_on(disk: SmallDisk, run, at: dict[int, str]) -> list[int]:
    """Train in this process, with something done to the disk before some steps.

    Returns the steps of the whole checkpoints.
    """
    run.run_dir.mkdir(parents=True, exist_ok=True)

    def streams(cursor: int):
        for batch in streams_of(run)(cursor):
            if batch.step.number in at:
                getattr(disk, at[batch.step.number])()
            yield batch

    rows = disk.folder.parent / "rows.jsonl"  # those are the driver's, and not in question here
    loop_of(run, engine_of(run), rows).run(streams)
    return [read_state(path).step for path in whole(run.run_dir / "checkpoints")]


def test_training_goes_on_past_a_checkpoint_for_which_there_is_no_room(
    checked, disk, caplog
) -> None:
    changes = {"run.storage": str(disk.folder), "checkpoint": {"every": 3 * STEP, "keep": 3}}
    run = checked(changes)
    with caplog.at_level(logging.WARNING, "manta"):
        steps = train_on(disk, run, {5: "fill", 8: "free"})
    [warning] = [r.getMessage() for r in caplog.records if r.name.startswith("manta")]
    assert "the checkpoint of step 6 can't be written" in warning
    assert "No space left" in warning
    assert steps == [3, 9, 12]
    assert [row["step"] for row in ledger(run)] == list(range(1, 13))
    assert [
        row["step"] for row in checkpoint_files.read_rows(newest(run.run_dir / "checkpoints"))
    ] == (list(range(1, 13)))
    assert not list((run.run_dir / "checkpoints").glob(".tmp-*"))


def test_the_last_checkpoint_must_be_written(checked, disk) -> None:
    run = checked({"run.storage": str(disk.folder), "checkpoint": {"every": 3 * STEP, "keep": 3}})
    with pytest.raises(RunError, match=r"step 12 can't be saved .*No space left.* free some room"):
        train_on(disk, run, {8: "fill"})
    assert [read_state(path).step for path in whole(run.run_dir / "checkpoints")] == [3, 6]
    disk.free()
    assert train_on(disk, run, {}) == [6, 9, 12]
    assert [row["step"] for row in ledger(run)] == list(range(1, 13))


def test_what_is_not_in_the_ledger_comes_with_the_next_checkpoint(
    checked, monkeypatch, caplog
) -> None:
    """The data is written, but the ledger's part is not: nothing of the journal is lost."""
    run = checked({"checkpoint": {"every": 3 * STEP, "keep": 4}})
    write = Ledger._write

    def full_once(ledger: Ledger, table, path: Path) -> None:
        if "-000000000000006." in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(ledger, table, path)

    monkeypatch.setattr(Ledger, "_write", full_once)
    with caplog.at_level(logging.WARNING, "manta"):
        steps = [read_state(path).step for path in train_here(run)]
    assert "the checkpoint of step 6 can't be written" in caplog.text
    assert steps == [3, 9, 12]
    assert [row["step"] for row in ledger(run)] == list(range(1, 13))
    parts = sorted(path.name for path in (run.run_dir / "ledger.parquet").iterdir())
    assert len(parts) == 3


def test_a_run_whose_checkpoints_are_gone_is_refused_before_anything_starts(checked) -> None:
    run = checked({"wandb.mode": "disabled", "checkpoint": {"every": 6 * STEP, "keep": 1}})
    train_whole(run, until=8)
    shutil.rmtree(run.run_dir / "checkpoints")
    with pytest.raises(
        RunError, match=r"no checkpoint, but run.json .* one of step 6: .*--restart"
    ):
        check(run.config)
    kept = sorted(path.name for path in run.run_dir.iterdir())
    aside = set_aside(run.run_dir)
    assert aside == run.run_dir.with_name("test.before-1")
    assert sorted(path.name for path in aside.iterdir()) == kept
    assert not run.run_dir.exists()
    check(run.config)
    assert set_aside(run.run_dir) is None
