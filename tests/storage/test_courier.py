"""The courier: the newest parcel arrives, training never waits, a dead store is waited out."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from s3_server import S3Server

from manta.storage.courier import Courier, Parcel
from manta.storage.place import place_of, tree
from manta.storage.store import StorePath

DEADLINE = 120.0


@pytest.fixture
def place(tmp_path: Path) -> StorePath:
    return StorePath.of(f"file://{tmp_path}/run")


def grown(path: Path) -> tuple[str, int, int]:
    file = os.open(path, os.O_RDONLY)
    return path.name, file, os.fstat(file).st_size


def test_the_newest_arrives_and_what_it_replaces_does_not(place: StorePath) -> None:
    courier = Courier(place, rest=3600.0)
    courier.send(Parcel(1, {"a": b"1"}))
    assert courier.flush(DEADLINE)
    for count in range(2, 6):
        courier.send(Parcel(count, {"a": str(count).encode()}))
    assert courier.delivered == 1, "it rests"
    assert courier.flush(DEADLINE)
    assert (courier.delivered, (place / "a").read_bytes()) == (5, b"5")
    courier.close()


def test_a_file_that_grows_is_sent_as_it_was(place: StorePath, tmp_path: Path) -> None:
    courier = Courier(place, rest=3600.0)
    history = tmp_path / "history"
    history.write_bytes(b"one\n")
    courier.send(Parcel(1, {}, grown(history)))
    with history.open("ab") as more:
        more.write(b"two\n")
    assert courier.flush(DEADLINE)
    assert (place / "history").read_bytes() == b"one\n"
    parcel = Parcel(2, {}, grown(history))
    os.replace(tmp_path / "run" / "history", history)  # another file under its name
    courier.send(parcel)
    assert courier.flush(DEADLINE)
    assert (place / "history").read_bytes() == b"one\ntwo\n"
    courier.close()


def test_a_store_that_does_not_answer_is_tried_again() -> None:
    server = S3Server()
    try:
        place = place_of(server.url("run", timeout=1))
        courier = Courier(place, rest=0.1)
        server.pause()
        began = time.monotonic()
        courier.send(Parcel(1, {"a": b"1"}))
        assert time.monotonic() - began < 1.0, "who sends does not wait"
        deadline = time.time() + DEADLINE
        while courier.problem is None:
            assert time.time() < deadline, "it does not say that it failed"
            time.sleep(0.05)
        assert courier.delivered == 0
        server.go_on()
        assert courier.flush(DEADLINE)
        assert (courier.delivered, courier.problem, tree(place)) == (1, None, {"a": 1})
        courier.close()
    finally:
        server.close()
