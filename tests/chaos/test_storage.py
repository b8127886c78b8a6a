"""Faults of storage, of the driver and of W&B: nothing is lost that was once whole."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_disk import SmallDisk, small_disk

from manta.record.verify_run import verify
from manta.state.checkpoint_files import name_of

SLOW = {"kind": "slow", "attempt": None}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk as the run's storage."""
    with small_disk(tmp_path) as found:
        yield found


def closed_port() -> str:
    """Where nobody answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def lonely_driver(nodes: Any, driver: Any, tmp_path: Path) -> Iterator[Any]:
    """A driver of the test's own, to kill, that has a key for W&B and can't reach it."""
    unreachable = {
        "WANDB_BASE_URL": closed_port(),
        "WANDB_API_KEY": "0" * 40,
        "WANDB_INIT_TIMEOUT": "2",
    }
    found = type(driver)(nodes.cluster.address, tmp_path / "log", unreachable)
    try:
        yield found
    finally:
        found.kill()


def truncate(checkpoint: Path) -> None:
    """Cut a file of it off."""
    data = next(checkpoint.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-100])


def lose_a_file(checkpoint: Path) -> None:
    """Remove a file of it."""
    next(checkpoint.glob("*.distcp")).unlink()


def test_a_killed_driver_and_two_damaged_checkpoints_without_wandb(
    nodes, run, lonely_driver, undisturbed
) -> None:
    nodes.have(2)
    stand = {"kind": "hold", "step": 59, "until": "never", "attempt": 1}
    keep, online = {"keep": 3}, {"mode": "online"}
    disturbed = run(SLOW, stand, steps=60, checkpoint=keep, wandb=online, pooled=False)
    disturbed.driver = lonely_driver
    disturbed.begin().reach(44)
    lonely_driver.kill()
    assert disturbed.record()["status"] == "running"
    *_, oldest, middle, newest = disturbed.checkpoints()
    truncate(disturbed.dir / "checkpoints" / name_of(newest))
    lose_a_file(disturbed.dir / "checkpoints" / name_of(middle))
    disturbed.begin().end()
    assert disturbed.record()["drivers"] == 2
    assert disturbed.starts() == [("checkpoint", oldest)]
    for damaged in (newest, middle):
        assert f"{name_of(damaged)} is damaged" in disturbed.notes()
    assert disturbed.record()["wandb"]["mode"] == "offline"
    assert "W&B" in disturbed.notes()
    assert disturbed.losses() == undisturbed(2, 60)
    verify(disturbed.dir)


def test_a_damaged_token_shard_is_named_and_mended(nodes, run, corpus, undisturbed, tmp_path):
    nodes.have(2)
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    shard = copy / "train-00001.arrow"
    content = shard.read_bytes()
    stand = {"kind": "hold", "step": 12, "until": str(tmp_path / "damaged"), "attempt": 1}
    disturbed = run(stand, {"kind": "kill", "rank": 1, "step": 25})
    disturbed.config["corpus"] = str(copy)
    disturbed.begin().reach(10)
    aside = copy / "aside"
    aside.write_bytes(content[:-200])
    os.replace(aside, shard)
    (tmp_path / "damaged").touch()
    disturbed.end("failed")
    assert disturbed.reasons() or disturbed.record()["groups"][0]["reason"]
    assert f"{shard}: {len(content) - 200} bytes" in disturbed.answer["error"]
    assert "the shard is damaged" in disturbed.record()["reason"]
    # The right size, one bit changed: only the checksum tells.
    shard.write_bytes(content[:-400] + bytes([content[-400] ^ 1]) + content[-399:])
    disturbed.begin().end("failed")
    assert f"{shard}: damaged: its checksum is not the manifest's" in disturbed.answer["error"]
    shard.write_bytes(content)
    disturbed.begin().end()
    assert disturbed.record()["drivers"] == 3
    assert disturbed.losses() == undisturbed(2)
    verify(disturbed.dir)


def test_a_full_disk_is_waited_out(disk, nodes, run, driver, undisturbed, tmp_path_factory) -> None:
    nodes.have(2)
    elsewhere = tmp_path_factory.mktemp("elsewhere")  # the disk will have no room for a file
    stand = [
        {"kind": "hold", "step": step, "until": str(elsewhere / name), "attempt": None}
        for step, name in ((13, "full"), (85, "freed"))
    ]
    disturbed = run(*stand, steps=100, checkpoint={"snapshot_every": 4}).begin()
    disturbed.reach(12)
    disk.fill()
    (elsewhere / "full").touch()
    kept = disturbed.checkpoints()
    driver.hear("can't be written to " + str(disturbed.dir / "checkpoints"))
    driver.hear("the disk is full: run.json and metrics.jsonl")
    assert disturbed.checkpoints() == kept, "older ones are whole"
    held = len(disturbed.rows())
    disk.free()
    (elsewhere / "freed").touch()
    disturbed.end()
    notes = disturbed.notes()
    assert "No space left on device" in notes
    assert notes.count("the disk is full") == notes.count("there is space again") == 1
    assert held < 100
    assert disturbed.checkpoints() == [90, 100]
    assert len(disturbed.record()["groups"]) == 1
    assert disturbed.losses() == undisturbed(2, 100)
    verify(disturbed.dir)
