"""Keepers: what is committed outlives its writer and one node, and is never half there."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
from ray.actor import ActorHandle

from manta.elastic.snapshot_memory.keeper import (
    FETCHES,
    ChangedBytesError,
    Chunk,
    Keeper,
    SnapshotPart,
    open_keeper,
)
from manta.elastic.snapshot_memory.keeper_vault import KeeperVault
from manta.elastic.snapshot_memory.shared_buffer import HEAD, identity, is_alive
from manta.state.vault import Stamp

pytestmark = pytest.mark.usefixtures("ray_local")
SIZE = 3_000_000
DEADLINE = 300.0  # it only ends what hangs
BUFFER = HEAD.size + SIZE + 2**20


@pytest.fixture
def keepers() -> Iterator[dict[str, ActorHandle]]:
    """Two keepers, as if on two nodes; nodes are only names to them."""
    here = ray.get_runtime_context().get_node_id()
    found = {name: open_keeper(here) for name in ("a", "b")}
    ray.get([keeper.used.remote() for keeper in found.values()])
    yield found
    for keeper in found.values():
        ray.kill(keeper)


def until_free(vault: KeeperVault, size: int = SIZE) -> None:
    end = time.monotonic() + DEADLINE
    while not vault.free(size):
        assert time.monotonic() < end, "nothing becomes free"
        time.sleep(0.005)


def until_dead(process: str) -> None:
    """Return once a process is gone: what it could write to is its own until then."""
    end = time.monotonic() + DEADLINE
    while is_alive(process):
        assert time.monotonic() < end, "it does not die"
        time.sleep(0.005)


def content(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, SIZE, dtype=np.uint8)


def put(vault: KeeperVault, stamp: Stamp, number: int, parts: int = 1) -> None:
    """Write and commit; ends when it is in all its places."""
    until_free(vault)
    np.frombuffer(vault.buffer(), dtype=np.uint8)[:SIZE] = content(number)
    vault.commit(stamp, parts, f"header {number}".encode())
    until_free(vault)


def has(vault: KeeperVault, stamp: Stamp, numbers: list[int]) -> bool:
    """Whether the vault gives just these parts of a snapshot."""
    shards = vault.open(stamp)
    return [shard.header for shard in shards] == [f"header {n}".encode() for n in numbers] and all(
        np.array_equal(np.frombuffer(shard.data, dtype=np.uint8)[:SIZE], content(number))
        for shard, number in zip(shards, numbers, strict=True)
    )


def test_a_snapshot_outlives_the_node_it_was_taken_on(keepers) -> None:
    put(KeeperVault(keepers, "a", 0), Stamp(5, 1), 1)
    ray.kill(keepers["a"])
    began = time.monotonic()
    for node in ("b", "a", "elsewhere"):
        vault = KeeperVault(keepers, node, 0)
        assert vault.whole() == [Stamp(5, 1)]
        assert has(vault, Stamp(5, 1), [1])
    on_a = KeeperVault(keepers, "a", 0)
    while on_a._mine is not None:
        assert not on_a.free(SIZE)  # no more snapshots from there, and nothing hangs
        assert time.monotonic() < began + DEADLINE


def test_buffers_are_prepared_beside_training_before_the_first_is_written(keepers) -> None:
    begun, go_on, prepared = threading.Event(), threading.Event(), []

    def prepare(buffers) -> None:
        prepared.append((threading.current_thread(), [len(buffer) for buffer in buffers]))
        begun.set()
        assert go_on.wait(DEADLINE)

    vault = KeeperVault({"a": keepers["a"]}, "a", 0)
    vault.prepare_with(prepare)
    while not begun.is_set():
        assert not vault.free(SIZE)
    assert not vault.free(SIZE)
    go_on.set()
    put(vault, Stamp(1, 1), 1)
    [(thread, sizes)] = prepared
    assert thread is not threading.main_thread()
    assert sizes == [BUFFER - HEAD.size] * 2


def test_memory_that_a_node_has_not_is_not_taken(keepers, caplog) -> None:
    vault = KeeperVault({"a": keepers["a"]}, "a", 0)
    end = time.monotonic() + DEADLINE
    while vault._mine is not None:
        assert not vault.free(2**50)
        assert time.monotonic() < end
    assert "no snapshots in memory: 1,125,899.9 GB are needed" in caplog.text
    assert ray.get(keepers["a"].used.remote()) == 0


class Cramped(Keeper):
    """One whose process may not have as much as a snapshot takes."""

    def __init__(self) -> None:
        super().__init__()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))


def test_a_second_place_without_memory_is_told_and_does_without(keepers, caplog) -> None:
    cramped = {"a": keepers["a"], "b": ray.remote(num_cpus=0)(Cramped).remote()}
    vault = KeeperVault(cramped, "a", 0)
    for step in (1, 2, 3):
        put(vault, Stamp(step, 1), step)
    assert set(KeeperVault(cramped, "a", 0).whole()) == {Stamp(2, 1), Stamp(3, 1)}
    assert [record.message for record in caplog.records] == [
        "snapshots are on one node only; the next node can't take them: [Errno 27] File too large"
    ]


def total(keepers) -> int:
    """Bytes that they hold together."""
    return sum(ray.get([keeper.used.remote() for keeper in keepers.values()]))


def test_memory_is_two_buffers_here_and_two_copies_there(keepers) -> None:
    vault = KeeperVault(keepers, "a", 0)
    for step in range(1, 8):
        put(vault, Stamp(step, 1), step)
        assert ray.get(keepers["a"].used.remote()) == 2 * BUFFER
        assert ray.get(keepers["b"].used.remote()) <= 2 * BUFFER
    assert total(keepers) == 4 * BUFFER
    assert set(vault.whole()) == {Stamp(6, 1), Stamp(7, 1)}


def test_who_goes_on_with_another_vault_gives_its_memory_back(keepers) -> None:
    """Groups change while their processes stay: each has a vault of its own."""
    alone = {"a": keepers["a"]}
    for attempt in range(1, 5):
        vault = KeeperVault(alone, "a", 0)
        if attempt > 1:
            vault.since(Stamp(attempt - 1, attempt - 1))
        put(vault, Stamp(attempt, attempt), attempt)
        vault.release()
        assert not vault.free(SIZE)
    assert vault.whole() == [Stamp(3, 3), Stamp(4, 4)], "what was committed stays"
    assert ray.get(keepers["a"].used.remote()) == 2 * BUFFER


def test_a_torn_write_leaves_the_one_before(keepers) -> None:
    alone = {"a": keepers["a"]}
    vault = KeeperVault(alone, "a", 0)
    put(vault, Stamp(2, 1), 2)
    put(vault, Stamp(4, 1), 4)
    vault.buffer()[: SIZE // 2] = bytes(SIZE // 2)
    assert KeeperVault(alone, "a", 0).whole() == [Stamp(4, 1)]
    assert has(vault, Stamp(4, 1), [4])


class Disturbed(Keeper):
    """A keeper on a bad line: some of what it sends has one bit changed on its way."""

    _left = 0

    async def disturb(self, messages: int) -> None:
        """Change a bit of so many messages."""
        self._left = messages

    async def read(self, *place: Any) -> Chunk:
        sent = await super().read(*place)
        if not self._left:
            return sent
        self._left -= 1
        data = sent.data.copy()
        data[len(data) // 2] ^= 4
        return Chunk(data, sent.crc32)


@pytest.mark.parametrize("changed", [0, 1, FETCHES - 1, FETCHES])
def test_bytes_that_change_between_nodes_are_asked_for_again_or_not_taken(
    keepers: dict[str, ActorHandle], changed: int
) -> None:
    sender = ray.remote(num_cpus=0)(Disturbed).remote()
    put(KeeperVault({"a": sender}, "a", 0), Stamp(5, 1), 1)
    if changed:  # where there is no keeper, a rank asks itself
        ray.get(sender.disturb.remote(changed))
        there = KeeperVault({"a": sender}, "elsewhere", 0)
        assert has(there, Stamp(5, 1), [1] * (changed < FETCHES))
        ray.get(sender.disturb.remote(changed))
    copying = keepers["b"].copy.remote(sender, SnapshotPart(Stamp(5, 1), 0, 1), None)
    copied = changed < FETCHES
    if copied:
        assert ray.get(copying)
    else:
        with pytest.raises(ChangedBytesError, match="bytes were changed on their way"):
            ray.get(copying)
    ray.kill(sender)
    vault = KeeperVault(keepers, "b", 0)
    assert vault.whole() == [Stamp(5, 1)] * copied
    assert has(vault, Stamp(5, 1), [1] * copied)
    assert total(keepers) == BUFFER * copied


def test_parts_of_several_nodes_make_one_snapshot(keepers) -> None:
    ranks = [KeeperVault(keepers, node, rank) for rank, node in enumerate("ab")]
    put(ranks[0], Stamp(3, 1), 0, parts=2)
    assert ranks[0].whole() == []
    put(ranks[1], Stamp(3, 1), 1, parts=2)
    assert ranks[0].whole() == [Stamp(3, 1)]
    assert all(has(rank, Stamp(3, 1), [0, 1]) for rank in ranks)
    ray.kill(keepers["b"])
    assert KeeperVault(keepers, "a", 0).whole() == [Stamp(3, 1)]
    assert has(KeeperVault(keepers, "a", 0), Stamp(3, 1), [0, 1])


class OnlyTogether(Keeper):
    """Gives no part before two are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._asked, self._two = set[int](), asyncio.Event()

    async def read(self, stamp: Stamp, number: int, offset: int, size: int):
        self._asked.add(number)
        if len(self._asked) == 2:
            self._two.set()
        await asyncio.wait_for(self._two.wait(), DEADLINE)
        return await super().read(stamp, number, offset, size)


@pytest.mark.parametrize("how", ["to a second place", "to go on from"])
def test_parts_of_a_node_are_copied_at_once(keepers, how: str) -> None:
    found = {"a": ray.remote(num_cpus=0)(OnlyTogether).remote(), "b": keepers["b"]}
    known = found if how == "to a second place" else {"a": found["a"]}
    ranks = [KeeperVault(known, "a", number) for number in range(2)]
    for number, rank in enumerate(ranks):
        until_free(rank)
        np.frombuffer(rank.buffer(), dtype=np.uint8)[:SIZE] = content(number)
        rank.commit(Stamp(3, 1), 2, f"header {number}".encode())
    assert all(rank.settle(DEADLINE) for rank in ranks)
    assert has(KeeperVault(found, "b", 0), Stamp(3, 1), [0, 1])
    ray.kill(found["a"])
    assert has(KeeperVault(found, "b", 0), Stamp(3, 1), [0, 1])


@ray.remote(num_cpus=0)
class Writer:
    """A worker that can be killed."""

    def __init__(self, keepers: dict[str, ActorHandle], attempt: int):
        self._vault, self._attempt = KeeperVault(keepers, "a", 0), attempt

    def identity(self) -> str | None:
        """Of its process."""
        return identity(os.getpid())

    def put(self, step: int) -> None:
        """Take a snapshot of a step."""
        put(self._vault, Stamp(step, self._attempt), step)

    def tear(self) -> None:
        """Begin one and never end it."""
        self._vault.buffer()[:100] = bytes(100)


def test_each_group_goes_on_from_the_last_ones_memory(keepers) -> None:
    alone = {"a": keepers["a"]}
    for attempt, step in ((1, 20), (2, 10), (3, 15)):
        worker = Writer.remote(alone, attempt)
        before = KeeperVault(alone, "a", 0).whole()
        ray.get([worker.put.remote(step), worker.put.remote(step + 1), worker.tear.remote()])
        process = ray.get(worker.identity.remote())
        ray.kill(worker)
        until_dead(process)
        # The group before has nothing left, be it further on than this one.
        assert KeeperVault(alone, "a", 0).whole() == [Stamp(step + 1, attempt)] != before
    vault = KeeperVault(alone, "a", 0)
    assert has(vault, Stamp(16, 3), [16])
    put(vault, Stamp(17, 4), 17)
    put(vault, Stamp(18, 4), 18)
    assert total(alone) == 2 * BUFFER  # nothing of the dead is kept


def test_a_larger_state_gets_larger_buffers(keepers) -> None:
    alone = {"a": keepers["a"]}
    vault = KeeperVault(alone, "a", 0)
    put(vault, Stamp(1, 1), 1)
    assert not vault.free(2 * SIZE)
    until_free(vault, 2 * SIZE)
    assert has(vault, Stamp(1, 1), [1])  # still there while the new ones are empty
    put(vault, Stamp(2, 1), 2)
    put(vault, Stamp(3, 1), 3)
    assert total(alone) == 2 * (BUFFER + SIZE)
