"""The memory that outlives the workers: one small actor on each node, a *keeper*.

Workers on its node map a keeper's memory and copy their snapshots straight into it: no bytes
pass through Ray, and however a keeper dies, the kernel takes the memory back. What is
committed is copied on, in the keepers' processes, to the keeper of the next node.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from manta.elastic.answers import arrived, dead, said
from manta.elastic.memory import HEAD, Buffer, Mapped, Place, allocate, identity, is_alive
from manta.train.vault import Shard, Stamp

log = logging.getLogger(__name__)

SLACK = 2**20  # bytes that a buffer is larger than asked for: the ledger rows in it grow
CHUNK = 2**25  # bytes a message between keepers
# A keeper answers in milliseconds. One that does not is dead, or as good as dead.
ANSWER_SECONDS = 1.0
PING_SECONDS = 0.2
TRANSFER_SECONDS = 300.0


class Part(NamedTuple):
    """A rank's part of a snapshot, of `parts` in all."""

    stamp: Stamp
    number: int
    parts: int


@dataclass(frozen=True)
class _Held:
    part: Part
    header: bytes
    buffer: Buffer

    @property
    def intact(self) -> bool:
        return self.buffer.stamp() == self.part.stamp


class Keeper:
    """Holds parts of snapshots. An asynchronous actor: no call waits for another."""

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []
        self._held: dict[tuple[Stamp, int], _Held] = {}
        self._gathering = asyncio.Lock()

    # ------------------------------------------------------ from the workers here

    async def lease(self, size: int, writer: str) -> Place | None:
        """A buffer of `size` bytes with its head, for the process `writer` alone.

        None where there is no such memory. It goes with its writer, once nothing is held in it.
        """
        self._sweep()
        buffer = await self._take(size, writer)
        return None if buffer is None else buffer.place

    async def release(self, fds: Sequence[int]) -> None:
        """Leased buffers that their writer will not write to again."""
        for buffer in self._buffers:
            if buffer.fd in fds:
                buffer.writer = None
        self._sweep()

    async def commit(
        self, part: Part, fd: int, header: bytes, since: Stamp | None, onward: Onward | None
    ) -> None:
        """Hold what was written to a leased buffer; ends when it is held in its second place too.

        Args:
            part: what it is.
            fd: of the buffer.
            header: what goes with it.
            since: the newest snapshot that is known to be whole: older ones are let go.
            onward: from where to where to copy it.
        """
        buffer = next((buffer for buffer in self._buffers if buffer.fd == fd), None)
        if buffer is None or buffer.stamp() != part.stamp:
            return  # too late: it came from a group that is gone
        self._drop([key for key, held in self._held.items() if held.buffer is buffer])
        self._hold(_Held(part, header, buffer), since)
        if onward is None:
            return
        try:
            copied = onward.target.copy.remote(onward.source, part, since)
            await asyncio.wait_for(copied, TRANSFER_SECONDS)
        except (RayError, TimeoutError) as error:
            # No second place, then: the group on that node has ended or will soon.
            log.warning("a snapshot has no second place (%s)", type(error).__name__)

    # ------------------------------------------------------------- from anywhere

    async def held(self) -> list[Part]:
        """The parts that are here and whole."""
        return [held.part for held in self._held.values() if held.intact]

    async def used(self) -> int:
        """Bytes of memory that this keeper has taken."""
        return sum(buffer.size for buffer in self._buffers)

    async def describe(self, stamp: Stamp, number: int) -> tuple[Part, bytes, int] | None:
        """A part, its header, and the size of its buffer with the head."""
        held = self._held.get((stamp, number))
        return None if held is None else (held.part, held.header, held.buffer.size)

    async def read(self, stamp: Stamp, number: int, offset: int, size: int) -> NDArray[np.uint8]:
        """Up to `size` bytes of a part's buffer from `offset` on; none if it is not here."""
        held = self._held.get((stamp, number))
        data = b"" if held is None else os.pread(held.buffer.fd, size, offset)
        return np.frombuffer(data, dtype=np.uint8)

    async def copy(self, source: ActorHandle, part: Part, since: Stamp | None) -> bool:
        """Get a part from the keeper `source` and hold it too. False if it is no longer there."""
        stamp, number = part.stamp, part.number
        if (stamp, number) in self._held:
            return True
        found = await source.describe.remote(stamp, number)
        if found is None:
            return False
        _, header, size = found
        buffer = await self._take(size, identity(os.getpid()))
        if buffer is None:
            return False
        try:
            await _fill(buffer, source, part)
            held = _Held(part, header, buffer)
            if held.intact:
                self._hold(held, since)
            return held.intact
        finally:
            buffer.writer = None
            self._sweep()

    async def gather(
        self, stamp: Stamp, others: Sequence[ActorHandle]
    ) -> list[tuple[bytes, Place]]:
        """All parts of a snapshot, as far as they exist, in this node's memory."""
        async with self._gathering:
            for other in others:
                if not self._is_complete(stamp):
                    await self._gather_from(other, stamp)
        return [(held.header, held.buffer.place) for held in self._parts(stamp)]

    async def _gather_from(self, other: ActorHandle, stamp: Stamp) -> None:
        try:
            there = await asyncio.wait_for(other.held.remote(), ANSWER_SECONDS)
            for part in there:
                if part.stamp == stamp:
                    await asyncio.wait_for(self.copy(other, part, None), TRANSFER_SECONDS)
        except (RayError, TimeoutError) as error:
            log.warning("a keeper does not answer (%s)", type(error).__name__)

    def _parts(self, stamp: Stamp) -> list[_Held]:
        parts = [held for held in self._held.values() if held.part.stamp == stamp and held.intact]
        return sorted(parts, key=lambda held: held.part.number)

    def _is_complete(self, stamp: Stamp) -> bool:
        parts = self._parts(stamp)
        return bool(parts) and len(parts) == parts[0].part.parts

    # -------------------------------------------------------------------- memory

    async def _take(self, size: int, writer: str | None) -> Buffer | None:
        buffer = await asyncio.to_thread(allocate, size, writer)
        if buffer is not None:
            self._buffers.append(buffer)
        return buffer

    def _hold(self, held: _Held, since: Stamp | None) -> None:
        self._held[held.part.stamp, held.part.number] = held
        if since is not None:
            self._drop([key for key in self._held if _age(key[0]) < _age(since)])

    def _drop(self, keys: Sequence[tuple[Stamp, int]]) -> None:
        for key in keys:
            del self._held[key]
        self._sweep()

    def _sweep(self) -> None:
        """Give back the memory that nothing is held in and no living process writes to."""
        needed = {held.buffer.fd for held in self._held.values()}
        for buffer in list(self._buffers):
            if buffer.fd not in needed and not is_alive(buffer.writer):
                self._buffers.remove(buffer)
                os.close(buffer.fd)


class Onward(NamedTuple):
    """Two keepers: that which has a part, and that which is to get it."""

    source: ActorHandle
    target: ActorHandle


def open_keeper(node_id: str) -> ActorHandle:
    """A keeper on a node. It lives as long as the process that opens it holds the handle."""
    options = {"label_selector": {"ray.io/node-id": node_id}, "scheduling_strategy": "DEFAULT"}
    return ray.remote(num_cpus=0)(Keeper).options(**options).remote()


class Keepers:
    """The keepers of a run, in the process that owns them: they go when it goes."""

    def __init__(self) -> None:
        self.handles: dict[str, ActorHandle] = {}

    def open(self, node_ids: Set[str]) -> None:
        """Have one on each of these nodes; one whose process died is replaced."""
        for node in self._dead():
            del self.handles[node]
        for node in node_ids - self.handles.keys():
            self.handles[node] = open_keeper(node)

    def forget(self, node_ids: Set[str]) -> None:
        """Let go of those on these nodes."""
        for node in node_ids & self.handles.keys():
            ray.kill(self.handles.pop(node))

    def used(self) -> int:
        """Bytes that they hold, as far as they answer at once."""
        asked = [keeper.used.remote() for keeper in self.handles.values()]
        return sum(said(asked, PING_SECONDS))

    def release(self) -> None:
        """Let go of all."""
        self.forget(set(self.handles))

    def _dead(self) -> list[str]:
        asked = {keeper.used.remote(): node for node, keeper in self.handles.items()}
        return dead(asked, PING_SECONDS)


async def _fill(buffer: Buffer, source: ActorHandle, part: Part) -> None:
    """Copy a part's buffer from another keeper, chunk by chunk."""
    stamp, number, _ = part
    for offset in range(HEAD.size, buffer.size, CHUNK):
        size = min(CHUNK, buffer.size - offset)
        os.pwrite(buffer.fd, await source.read.remote(stamp, number, offset, size), offset)
    # The head last: if it is still the right one, nothing was rewritten meanwhile.
    os.pwrite(buffer.fd, await source.read.remote(stamp, number, 0, HEAD.size), 0)


def _age(stamp: Stamp) -> tuple[int, int]:
    """In the order of time: a later group may have gone back to an earlier step."""
    return (stamp.attempt, stamp.step)


# ------------------------------------------------------------------- in the workers


class KeeperVault:
    """The keepers as one rank's `Vault`.

    Args:
        keepers: by node id.
        node_id: where this process runs; without a keeper there, it can restore but not write.
        rank: of this process.
    """

    def __init__(self, keepers: Mapping[str, ActorHandle], node_id: str, rank: int):
        self._keepers, self._rank = dict(keepers), rank
        self._mine = keepers.get(node_id)
        self._others = [keeper for node, keeper in keepers.items() if node != node_id]
        self._onward = _onward(keepers, node_id)
        self._writer = identity(os.getpid())
        self._leases: list[Any] = []
        self._buffers: list[Mapped] = []
        self._asked = self._size = self._turn = 0
        self._pending: Any = None
        self._last: Stamp | None = None
        self._since: Stamp | None = None

    def free(self, size: int) -> bool:
        """See `Vault`."""
        try:
            return self._mine is not None and self._is_processed() and self._has_room(size)
        except (RayError, OSError) as error:
            log.warning(
                "no more snapshots from rank %d: the keeper of its node can't be used (%s)",
                self._rank,
                type(error).__name__,
            )
            self._mine = None
            return False

    def _is_processed(self) -> bool:
        if self._pending is not None and arrived([self._pending]):
            ray.get(self._pending)
            self._pending = None
        return self._pending is None

    def _has_room(self, size: int) -> bool:
        assert self._mine is not None
        if self._asked < size and not self._leases:
            self._asked = size + SLACK
            wanted = HEAD.size + self._asked
            self._leases = [self._mine.lease.remote(wanted, self._writer) for _ in range(2)]
        if self._leases and arrived(self._leases):
            places, self._leases = ray.get(self._leases), []
            if None in places:
                raise OSError("it has no memory")
            self._mine.release.remote([mapped.place.fd for mapped in self._buffers])
            self._buffers = [Mapped.of(place) for place in places]
            self._size = min(place.size for place in places) - HEAD.size
        return bool(self._buffers) and size <= self._size

    def buffer(self) -> memoryview:
        """See `Vault`."""
        self._since, self._turn = self._last or self._since, 1 - self._turn
        mapped = self._buffers[self._turn]
        mapped.begin()
        return mapped.data

    def commit(self, stamp: Stamp, parts: int, header: bytes) -> None:
        """See `Vault`."""
        if self._mine is None:
            return
        mapped = self._buffers[self._turn]
        mapped.stamp(stamp)
        part = Part(stamp, self._rank, parts)
        self._pending = self._mine.commit.remote(
            part, mapped.place.fd, header, self._since, self._onward
        )
        self._last = stamp

    def whole(self) -> list[Stamp]:
        """See `Vault`."""
        found: dict[Stamp, set[Part]] = defaultdict(set)
        for part in chain.from_iterable(self._answers("held")):
            found[part.stamp].add(part)
        return [stamp for stamp, parts in found.items() if len(parts) == min(parts).parts]

    def open(self, stamp: Stamp) -> list[Shard]:
        """See `Vault`."""
        self._since = stamp
        try:
            if self._mine is not None:
                return self._mapped(stamp)
        except (RayError, OSError) as error:
            log.warning("the keeper of this node can't be used (%s)", type(error).__name__)
        return self._fetched(stamp)

    def settle(self, seconds: float) -> bool:
        """See `Vault`."""
        if self._pending is None:
            return True
        done, _ = ray.wait([self._pending], timeout=seconds)
        try:
            return bool(done) and self._is_processed()
        except RayError:
            return False

    def _answers(self, method: str) -> list[Any]:
        """What the keepers that live say to a question."""
        asked = [getattr(keeper, method).remote() for keeper in self._keepers.values()]
        return said(asked, ANSWER_SECONDS)

    def _mapped(self, stamp: Stamp) -> list[Shard]:
        """All parts, in the memory of this node's keeper."""
        assert self._mine is not None
        gathered = self._mine.gather.remote(stamp, self._others)
        parts = ray.get(gathered, timeout=TRANSFER_SECONDS)
        return [Shard(header, Mapped.of(place).data) for header, place in parts]

    def _fetched(self, stamp: Stamp) -> list[Shard]:
        """All parts, in memory of this process."""
        found: dict[int, Shard] = {}
        for keeper in self._keepers.values():
            with suppress(RayError):
                for part in ray.get(keeper.held.remote(), timeout=ANSWER_SECONDS):
                    if part.stamp == stamp and part.number not in found:
                        found[part.number] = _fetch(keeper, part)
        return [found[number] for number in sorted(found)]


def _fetch(keeper: ActorHandle, part: Part) -> Shard:
    stamp, number, _ = part
    _, header, size = ray.get(keeper.describe.remote(stamp, number), timeout=ANSWER_SECONDS)
    data = np.empty(size - HEAD.size, dtype=np.uint8)
    for offset in range(0, len(data), CHUNK):
        chunk = keeper.read.remote(stamp, number, HEAD.size + offset, CHUNK)
        data[offset : offset + CHUNK] = ray.get(chunk, timeout=TRANSFER_SECONDS)
    return Shard(header, data.data)


def _onward(keepers: Mapping[str, ActorHandle], node_id: str) -> Onward | None:
    """From the keeper of a node to that of the next one, in the order of their ids."""
    nodes = sorted(keepers)
    if node_id not in keepers or len(nodes) < 2:
        return None
    after = nodes[(nodes.index(node_id) + 1) % len(nodes)]
    return Onward(keepers[node_id], keepers[after])
