"""Snapshots: taken in steps, restored at any world size, passed over when they don't fit."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from file_vault import HEAD, FileVault
from plain_runs import (
    engine_of,
    ledger,
    loop_of,
    losses,
    memory_of,
    proof,
    run_ranks,
    streams_of,
    train,
)
from torch.distributed.tensor import DTensor

from manta.state import tensor_layout
from manta.state.checkpoint_files import TrainState
from manta.state.journal import Journal
from manta.state.snapshot import BUDGET, FIRST, LONGEST, SnapshotPace, Snapshots
from manta.state.vault import Stamp
from manta.stream.ledger import Ledger

STEP = 16 * 7  # tokens
EVERY_2 = {"checkpoint": {"every": 5 * STEP, "snapshot_every": 2}}


def resumed(rows: list[dict]) -> list[tuple[str, int]]:
    """From where each group went on."""
    return [(row["source"], row["resumed"]) for row in rows if "resumed" in row]


@pytest.fixture(scope="module")
def alone(checked_module):
    """The curve and ledger of an undisturbed run on one rank."""
    run = checked_module({"run.name": "alone"})
    return losses(go(run)), proof(run)


# ----------------------------------------------------------- capture and restore


def _full(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def _everything(engine) -> dict[str, torch.Tensor]:
    """Whole tensors of the model and its optimizer by name, on every rank."""
    return {name: _full(tensor) for name, tensor in tensor_layout._named_tensors(engine.trained)}


def _take_rank(run, memory: Path, out: Path) -> None:
    engine = engine_of(run)
    batches = streams_of(run, engine.ranks.rank, engine.ranks.world_size)(0)
    journal = Journal(engine.ranks, Ledger(memory / "ledger"), 1, lambda: 0)
    for _ in range(3):
        batch = next(batches)
        journal.consumed(batch.step, engine.step(batch).digest)
    snapshots = Snapshots(engine.trained, FileVault(memory, engine.ranks.rank), 1, 1)
    assert snapshots.take(TrainState(step=3, cursor=21, tokens=336), journal)
    whole = _everything(engine)
    if engine.ranks.rank == 0:
        torch.save(whole, out)


def _restore_rank(run, memory: Path, expected: Path) -> None:
    engine = engine_of(run)
    snapshots = Snapshots(engine.trained, FileVault(memory, engine.ranks.rank), 2, 1)
    stamps = snapshots.newest()
    assert stamps == [Stamp(3, 1)]
    restored = snapshots.restore(stamps[0], 0)
    assert restored is not None
    assert restored.state == TrainState(step=3, cursor=21, tokens=336)
    assert restored.ledger[:, 0].tolist() == [1, 2, 3]
    whole, saved = _everything(engine), torch.load(expected)
    assert whole.keys() == saved.keys()
    for name, tensor in saved.items():
        assert torch.equal(whole[name], tensor), name
    # It is what the optimizer would have made itself.
    for state in engine.trained.optimizer.state.values():
        assert {kind: type(value) for kind, value in state.items()}["step"] is torch.Tensor
        assert state["step"].item() == 3


SPLIT = {"parallel.shard": True}


def test_a_split_snapshot_fits_other_ranks(checked, tmp_path) -> None:
    files = (tmp_path / "memory", tmp_path / "whole.pt")
    run_ranks(2, _take_rank, checked(SPLIT), *files)
    run_ranks(3, _restore_rank, checked(SPLIT), *files)
    _restore_rank(checked(), *files)


def test_a_replicated_snapshot_fits_split_ranks(checked, tmp_path) -> None:
    files = (tmp_path / "memory", tmp_path / "whole.pt")
    _take_rank(checked(), *files)
    _restore_rank(checked(), *files)
    run_ranks(2, _restore_rank, checked(SPLIT), *files)


# ------------------------------------------------------------------- whole groups


def go(run, *, attempt: int = 1, until: int | None = None) -> list[dict]:
    """Train here; leave off, as if killed, after step `until`. Returns what was reported."""
    run.run_dir.mkdir(parents=True, exist_ok=True)
    vault = FileVault(memory_of(run), 0)
    loop = loop_of(run, engine_of(run), run.run_dir / "rows.jsonl", attempt, vault)

    def streams(cursor: int):
        for batch in streams_of(run)(cursor):
            yield batch
            if batch.step.number == until:
                raise InterruptedError

    try:
        loop.run(streams)
    except InterruptedError:
        loop._checkpoints.wait()
    return [json.loads(line) for line in (run.run_dir / "rows.jsonl").read_text().splitlines()]


def test_killed_after_a_snapshot_is_bitwise_the_same(checked, alone) -> None:
    run = checked(EVERY_2)
    first = train(run, die_after=9, snapshots=True)
    assert max(losses(first)) == 9
    rows = train(run, attempt=2, snapshots=True)
    assert resumed(rows) == [("start", 0), ("snapshot", 8)]
    assert losses(rows) == alone[0]  # where a step came twice, it had the same loss
    assert proof(run) == alone[1]
    assert [row["attempt"] for row in ledger(run)] == [1] * 8 + [2] * 4
    carried = next(row["carried"] for row in rows if row.get("source") == "snapshot")
    assert [row["step"] for row in carried] == list(range(1, 9))


def test_no_checkpoint_is_needed_and_many_deaths_are_survived(checked, alone) -> None:
    run = checked({"checkpoint.snapshot_every": 2})
    go(run, until=3)
    train(run, 3, die_after=6, attempt=2, snapshots=True)
    train(run, 2, die_after=9, attempt=3, snapshots=True)
    rows = go(run, attempt=4)
    assert resumed(rows) == [("start", 0), ("snapshot", 2), ("snapshot", 6), ("snapshot", 8)]
    assert proof(run) == alone[1]
    sizes = [row["world_size"] for row in ledger(run)]
    assert sizes == [1] * 2 + [3] * 4 + [2] * 2 + [1] * 4


def test_a_sharded_group_goes_on_with_other_ranks(checked, alone) -> None:
    run = checked({**SPLIT, "checkpoint.snapshot_every": 2, "eval": {"every": STEP, "tokens": 160}})
    train(run, 2, die_after=5, snapshots=True)
    train(run, 3, die_after=9, attempt=2, snapshots=True)
    rows = go(run, attempt=3)
    assert resumed(rows) == [("start", 0), ("snapshot", 4), ("snapshot", 8)]
    curve = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert curve == pytest.approx(alone[0], rel=1e-5)
    assert proof(run) == alone[1]


def test_the_newer_of_snapshot_and_checkpoint_counts(checked, alone) -> None:
    run = checked({"checkpoint": {"every": 4 * STEP, "snapshot_every": 7}})
    go(run, until=10)
    assert resumed(go(run, attempt=2, until=11))[-1] == ("checkpoint", 8)
    # From a checkpoint on, snapshots are taken as before; an older one does not count.
    run = checked({"checkpoint": {"every": 8 * STEP, "snapshot_every": 10}})
    assert resumed(go(run, attempt=3, until=11))[-1] == ("checkpoint", 8)
    assert resumed(go(run, attempt=4))[-1] == ("snapshot", 10)
    assert proof(run) == alone[1]


# ------------------------------------------------- in this process, what goes wrong


def newest_file(run) -> Path:
    def step(path: Path) -> int:
        return HEAD.unpack(path.read_bytes()[: HEAD.size])[0]

    return max(memory_of(run).glob("*.data"), key=step)


def _tear(run) -> None:
    """Death in the middle of writing the newest."""
    path = newest_file(run)
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    path.write_bytes(content)


def _garble_header(run) -> None:
    path = newest_file(run).with_suffix(".head")
    path.write_bytes(path.read_bytes()[:-30])


def _garble_layout(run) -> None:
    path = newest_file(run).with_suffix(".head")
    path.write_bytes(path.read_bytes().replace(b'"last": 61', b'"last": 60'))


def _shorten(run) -> None:
    path = newest_file(run)
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize(
    ("damage", "warns"),
    [(_tear, False), (_garble_header, True), (_garble_layout, True), (_shorten, True)],
)
def test_a_bad_snapshot_leaves_the_one_before(checked, alone, caplog, damage, warns) -> None:
    run = checked({"checkpoint.snapshot_every": 2})
    go(run, until=9)
    damage(run)
    with caplog.at_level(logging.WARNING, "manta"):
        rows = go(run, attempt=2)
    assert ("the snapshot of step 8 can't be used" in caplog.text) == warns
    assert resumed(rows) == [("start", 0), ("snapshot", 6)]
    assert losses(rows) == alone[0]
    assert proof(run) == alone[1]


def test_a_snapshot_that_does_not_join_the_ledger_is_passed_over(checked, alone, caplog) -> None:
    run = checked(EVERY_2)
    go(run, until=9)
    Ledger(run.run_dir / "ledger.parquet").trim(3)
    shutil.rmtree(run.run_dir / "checkpoints")
    with caplog.at_level(logging.WARNING, "manta"):
        rows = go(run, attempt=2)
    assert "ends at step 3" in caplog.text
    assert resumed(rows) == [("start", 0), ("start", 0)]
    assert losses(rows) == alone[0]
    assert proof(run) == alone[1]


def test_a_ledger_that_is_ahead_of_the_snapshot_is_trimmed(checked, alone) -> None:
    """Death between the ledger's append and the checkpoint's last rename."""
    run = checked({"checkpoint": {"every": 9 * STEP, "snapshot_every": 4}})
    go(run, until=10)
    assert [row["step"] for row in ledger(run)] == list(range(1, 10))
    (run.run_dir / "checkpoints/step-000000000009/state.json").unlink()
    rows = go(run, attempt=2)
    assert resumed(rows)[-1] == ("snapshot", 8)
    assert proof(run) == alone[1]


def test_no_snapshot_while_the_one_before_is_copied(checked) -> None:
    run = checked({"checkpoint.snapshot_every": 2})
    memory_of(run).mkdir(parents=True)
    busy = memory_of(run) / "busy"
    vault = FileVault(memory_of(run), 0)
    engine = engine_of(run)
    snapshots = Snapshots(engine.trained, vault, 1, 2)
    journal = Journal(engine.ranks, Ledger(run.run_dir / "ledger.parquet"), 1, lambda: 0)
    taken = []
    for batch in streams_of(run)(0):
        step = batch.step.number
        busy.touch() if 3 <= step <= 6 else busy.unlink(missing_ok=True)
        journal.consumed(batch.step, engine.step(batch).digest)
        if snapshots.due(step) and snapshots.take(TrainState(step=step), journal):
            taken.append(step)
    # Due at 4; tried again ever more rarely (5, then at the next multiple), then as before.
    assert taken == [2, 8, 10, 12]
    restored = snapshots.restore(vault.whole()[-1], 0)
    assert restored.ledger[:, 0].tolist() == list(range(1, restored.state.step + 1))


def test_off_means_off(checked) -> None:
    run = checked({"checkpoint.snapshot_every": 0})
    go(run)
    assert not list(memory_of(run).glob("*.data"))


# ------------------------------------------------------------------ how often, rows


def test_the_interval_follows_from_the_cost(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("manta.state.snapshot.time.perf_counter", lambda: now[0])
    pace = SnapshotPace()
    pace.start(1)
    assert pace.interval() == FIRST

    def snapshot(step: int, seconds_a_step: float, cost: float) -> int:
        now[0] += seconds_a_step * (step - pace._step)
        pace.hold(step)
        now[0] += cost
        pace.release(step, taken=True)
        return pace.interval()

    assert snapshot(4, 0.1, 70.0) == FIRST  # getting the memory is no snapshot's price
    assert snapshot(7, 0.1, 0.0099) == 5  # the fewest steps of which it is BUDGET or less
    assert BUDGET * 4 * 0.1 < 0.0099 <= BUDGET * 5 * 0.1
    for step in range(12, 60, 5):
        interval = snapshot(step, 1.0, 0.001)
    assert interval == 1
    for step in range(60, 70):
        interval = snapshot(step, 0.001, 10.0)
    assert interval == LONGEST


def test_the_journal_keeps_rows_until_they_are_in_the_ledger(checked, tmp_path) -> None:
    run = checked()
    engine, disk = engine_of(run), Ledger(tmp_path / "ledger")
    journal = Journal(engine.ranks, disk, 1, lambda: 0)
    batches = streams_of(run)(0)

    def consume(count: int) -> None:
        for _ in range(count):
            batch = next(batches)
            journal.consumed(batch.step, engine.digest(batch))

    def steps() -> list[int]:
        return journal.peek()[0][:, 0].tolist()

    consume(2)
    assert steps() == [1, 2]
    consume(1)
    first = journal.seal()
    consume(2)
    assert steps() == [1, 2, 3, 4, 5]  # the checkpoint of 3 is not durable yet
    second = journal.seal()
    consume(1)
    first.write(tmp_path)
    assert (disk.last_step(), steps()) == (3, [4, 5, 6])
    second.write(tmp_path)
    assert (disk.last_step(), steps()) == (5, [6])
    table, votes = journal.peek((3, 2**40))
    assert votes == [3, 2**40]
    again = Journal(engine.ranks, disk, 2, lambda: 0)
    again.prime(np.array(table))
    batch = next(batches)
    again.consumed(batch.step, engine.digest(batch))
    again.seal().write(tmp_path)
    assert disk.read()["attempt"].to_pylist() == [1] * 6 + [2]
    assert disk.read()["step"].to_pylist() == list(range(1, 8))
