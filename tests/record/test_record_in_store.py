"""The record of a run in a store: what counts as recorded, and which copy of it is the truth."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manta.config import RunConfig
from manta.config.errors import RunError
from manta.corpus.manifest import Manifest
from manta.record.run_record import SAVE_SECONDS, RunRecord
from manta.storage.lease import LEASE, Holder

Open = Callable[..., RunRecord]


@pytest.fixture
def open_record(
    make_config: Callable[..., RunConfig],
    manifest: Manifest,
    clock: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Open:
    """Opens the run on a node."""

    def open_(node: str = "node-1") -> RunRecord:
        monkeypatch.setenv("MANTA_CACHE", str(tmp_path / node))
        config = make_config(run={"name": "one", "storage": f"file://{tmp_path}/store"})
        return RunRecord.open(config, manifest, total_steps=100, total_tokens=1000, clock=clock)

    return open_


def steps(path: Any) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_rows_count_once_they_are_in_the_store(open_record: Open, clock, training_row) -> None:
    record = open_record()
    for step in (1, 2, 3):
        record.add(training_row(step))
    assert steps(record.run_dir / "metrics.jsonl") == [1, 2, 3]
    assert record.recorded == 0, "a disk that may go with its node is no record"
    clock.now += SAVE_SECONDS
    record.add(training_row(4))
    record.check_saved()
    assert record.recorded == 4
    assert steps(record.place / "metrics.jsonl") == [1, 2, 3, 4]
    record.add(training_row(5))
    assert record.recorded == 4
    record.close()


def test_another_node_goes_on_from_the_store_alone(open_record: Open, training_row) -> None:
    record = open_record()
    for step in (1, 2):
        record.add(training_row(step))
    record.checkpoint(step=2, tokens=20, path="x", seconds=0.0)
    record.check_saved()
    record.add(training_row(3))  # and the driver is killed before this has left its node
    record.close()

    record = open_record("node-2")
    assert steps(record.run_dir / "metrics.jsonl") == [1, 2]
    assert record.state.drivers == 2
    for step in (3, 4):
        record.add(training_row(step))
    record.finish("finished", reason="", final={})
    record.check_saved()
    record.close()

    record = open_record("node-1")  # where files of the first driver lie
    assert record.state.drivers == 3
    assert steps(record.run_dir / "metrics.jsonl") == [1, 2, 3, 4]
    record.close()


def test_who_has_lost_the_run_stops(open_record: Open, training_row) -> None:
    record = open_record()
    with pytest.raises(RunError, match="another driver is at work"):
        open_record("node-2")
    thief = Holder.me().model_copy(update={"host": "far-away", "token": "theirs"})
    (record.place / LEASE).write_bytes(thief.model_dump_json().encode())
    record._hold._lease.renew()
    with pytest.raises(RunError, match=r"another driver has taken over: process .* on far-away"):
        record.save()
    record.close()


def test_a_store_that_fails_is_told_of_and_does_not_stop_the_run(
    open_record: Open, clock, training_row, tmp_path: Path
) -> None:
    record = open_record()
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").write_text("in the way")
    clock.now += SAVE_SECONDS
    record.add(training_row(1))
    deadline = time.time() + 300
    while not (said := record.messages()):
        assert time.time() < deadline, "nobody is told"
        time.sleep(0.01)
    assert "run.json and metrics.jsonl can't be written to file://" in said[0]
    assert record.messages() == [], "once is enough"
    assert record.recorded == 0
    assert steps(record.run_dir / "metrics.jsonl") == [1]
    record.close()
