"""A lease: one driver for a place in a store, whoever dies."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from manta.config.errors import RunError
from manta.storage.lease import LEASE, Holder, Lease, refuse_if_held
from manta.storage.store import StorePath

DEADLINE = 120.0
HOLD = (
    "import sys; from manta.storage.lease import Lease; from manta.storage.store import StorePath;"
    "Lease(StorePath.of(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def place(tmp_path: Path) -> StorePath:
    return StorePath.of(f"file://{tmp_path}/run")


def elsewhere(place: StorePath) -> Holder:
    """Another machine's driver has written its lease just now."""
    holder = Holder.me().model_copy(update={"host": "far-away", "process": 7, "token": "theirs"})
    (place / LEASE).write_bytes(holder.model_dump_json().encode())
    return holder


def test_one_at_a_time(place: StorePath) -> None:
    lease = Lease(place)
    with pytest.raises(RunError, match=r"another driver is at work here \(process \d+ on "):
        Lease(place)
    lease.release()
    lease.release()
    Lease(place).release()
    assert place.tree() == {}


def test_another_machines_is_respected_for_its_term(place: StorePath) -> None:
    elsewhere(place)
    with pytest.raises(RunError, match=r"process 7 on far-away, .* try again in \d+ s"):
        Lease(place)
    Lease(place, term=0.0).release()


def test_that_of_a_dead_process_of_this_machine_is_free_at_once(place: StorePath) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=f"process {holder.pid} on"):
        refuse_if_held(place)
    holder.kill()
    holder.communicate()
    assert (place / LEASE).exists()
    Lease(place).release()


def test_it_is_renewed_and_its_loss_is_noticed(place: StorePath) -> None:
    lease = Lease(place, renew=0.02)
    written = (place / LEASE).modified()
    deadline = time.time() + DEADLINE
    while (place / LEASE).modified() == written:
        assert time.time() < deadline, "it is not renewed"
    lease.check()
    theirs = elsewhere(place)
    while not lease.lost:
        assert time.time() < deadline, "its loss is not noticed"
        if Holder.model_validate_json((place / LEASE).read_bytes()) != theirs:
            theirs = elsewhere(place)  # it was being renewed at that moment
    with pytest.raises(RunError, match="another driver has taken over: process 7 on far-away"):
        lease.check()
    lease.release()
    assert (place / LEASE).exists(), "it is theirs"
