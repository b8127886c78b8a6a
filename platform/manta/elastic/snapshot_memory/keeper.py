"""Keeps snapshots in memory that outlives the workers, by a *keeper*: an actor on each node.

Workers on its node map a keeper's memory and copy their snapshots straight into it: no bytes
pass through Ray, and however a keeper dies, the kernel frees the memory. Committed parts are
then copied to the keeper of the next node, in the keepers' processes; each message has a
checksum (`shared_buffer` says why the memory itself has none).
"""

from __future__ import annotations

import asyncio
import logging
import os
import zlib
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from manta.elastic.cluster_state.actor_replies import dead, said
from manta.elastic.snapshot_memory.shared_buffer import (
    HEAD,
    Buffer,
    SharedBuffer,
    allocate,
    identity,
    is_alive,
)
from manta.state.vault import Stamp

log = logging.getLogger(__name__)
T = TypeVar("T")

SLACK = 2**20  # bytes that a buffer has beyond the request, because the ledger rows in it grow
CHUNK = 2**25  # bytes a message between keepers
FETCHES = 3  # attempts at a chunk that arrives with a wrong checksum
# Chunks that a keeper requests at a time, of all parts together: while one is written, others are
# on the way. Each takes memory in Ray's object store at both ends.
CHUNKS_AT_A_TIME = 8
# Seconds to wait for a keeper's reply, which takes milliseconds: a later one counts as dead.
ANSWER_SECONDS = 1.0
PING_SECONDS = 0.2
# Seconds to wait for a part's description: a keeper that is copying replies late.
DESCRIBE_SECONDS = 30.0
# A part that is copied more slowly than this is given up, even on a busy network.
SLOWEST = 10e6  # bytes a second


def transfer_seconds(size: float) -> float:
    """Most seconds that `size` bytes may take from node to node."""
    return 30.0 + size / SLOWEST


class SnapshotPart(NamedTuple):
    """The part of a snapshot that one rank wrote, of `parts` in all."""

    stamp: Stamp
    number: int
    parts: int


class ChangedBytesError(OSError):
    """Bytes from another node arrived with a wrong checksum."""


class Chunk(NamedTuple):
    """Bytes sent to another node, and their checksum.

    TCP's own checksum has 16 bits and is computed by network cards, so it misses errors in the
    memory of both nodes. The comparison also fails if the writer starts to overwrite the buffer
    during the transfer; the snapshot in it is void then anyway.
    """

    data: NDArray[np.uint8]
    crc32: int

    @classmethod
    async def of(cls, data: NDArray[np.uint8]) -> Chunk:
        """A chunk of `data`; a thread computes the checksum, so the keeper stays responsive."""
        return cls(data, await asyncio.to_thread(zlib.crc32, data.data))

    def checked(self) -> memoryview:
        """The bytes, compared with their checksum.

        Raises:
            ChangedBytesError: if they don't match.
        """
        data = self.data.data
        if zlib.crc32(data) != self.crc32:
            raise ChangedBytesError(f"{len(data):,} bytes were changed on their way")
        return data


@dataclass(frozen=True)
class _Held:
    part: SnapshotPart
    header: bytes
    buffer: Buffer

    @property
    def intact(self) -> bool:
        return self.buffer.stamp() == self.part.stamp


class Keeper:
    """Holds parts of snapshots. An async actor: no call blocks another."""

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []
        self._held: dict[tuple[Stamp, int], _Held] = {}
        self._gathering = asyncio.Lock()
        self._chunks = asyncio.Semaphore(CHUNKS_AT_A_TIME)

    # ------------------------------------------- calls of the workers on this node

    async def lease(self, size: int, writer: str) -> SharedBuffer | str:
        """A buffer of `size` bytes, its header included, for the process `writer` alone.

        Returns the reason instead if there is no such memory. The buffer is freed when its
        writer has ended and nothing is held in it.
        """
        self._sweep()
        try:
            return (await self._take(size, writer)).shared
        except OSError as error:
            return str(error)

    async def release(self, fds: Sequence[int]) -> None:
        """Take back leased buffers that their writer will not use again."""
        for buffer in self._buffers:
            if buffer.fd in fds:
                buffer.writer = None
        self._sweep()

    async def commit(
        self, part: SnapshotPart, fd: int, header: bytes, since: Stamp | None, onward: Onward | None
    ) -> str | None:
        """Hold what was written to a leased buffer; returns once the copy is held, too.

        Returns why there is no copy on a second node, if there should be one; else None.

        Args:
            part: the rank's part of the snapshot.
            fd: file descriptor of the leased buffer.
            header: description of the part's tensors, kept with it.
            since: stamp of the newest snapshot known to be complete; older ones are dropped.
            onward: the keepers between which to copy the part; None for no copy.
        """
        buffer = next((buffer for buffer in self._buffers if buffer.fd == fd), None)
        if buffer is None or buffer.stamp() != part.stamp:
            return None  # too late: the group that wrote it has ended
        self._drop([key for key, held in self._held.items() if held.buffer is buffer])
        self._hold(_Held(part, header, buffer), since)
        if onward is None:
            return None
        try:
            copied = onward.target.copy.remote(onward.source, part, since)
            # The copy has its own deadline; this one is for a keeper that is stuck.
            await asyncio.wait_for(copied, 2 * transfer_seconds(buffer.size))
        except RayTaskError as error:
            return "it took too long" if _is_late(error) else str(error.cause)
        except (RayError, TimeoutError) as error:
            # The other keeper is lost: its group has ended or will soon.
            log.warning("a snapshot is on one node only (%s)", type(error).__name__)
        return None

    # ----------------------------------------------------- calls from any process

    async def held(self) -> list[SnapshotPart]:
        """The complete parts that this keeper has."""
        return [held.part for held in self._held.values() if held.intact]

    async def used(self) -> int:
        """Bytes of memory that this keeper has allocated."""
        return sum(buffer.size for buffer in self._buffers)

    async def describe(self, stamp: Stamp, number: int) -> tuple[Chunk, int] | None:
        """A part's header, and the size of its buffer."""
        held = self._held.get((stamp, number))
        if held is None:
            return None
        header = np.frombuffer(held.header, dtype=np.uint8)
        return await Chunk.of(header), held.buffer.size

    async def read(self, stamp: Stamp, number: int, offset: int, size: int) -> Chunk:
        """Up to `size` bytes of a part's buffer from `offset` on; none without that part."""
        held = self._held.get((stamp, number))
        if held is None:
            return await Chunk.of(np.empty(0, dtype=np.uint8))
        # A view: Ray copies straight from these pages into its object store.
        return await Chunk.of(held.buffer.content[offset : offset + size])

    async def copy(self, source: ActorHandle, part: SnapshotPart, since: Stamp | None) -> bool:
        """Copy a part from the keeper `source` and hold it; False if it is no longer there.

        Raises:
            OSError: if there is no memory, or every attempt arrives with a wrong checksum.
        """
        stamp, number = part.stamp, part.number
        if (stamp, number) in self._held:
            return True
        found = await asyncio.wait_for(source.describe.remote(stamp, number), DESCRIBE_SECONDS)
        if found is None:
            return False
        header, size = found
        buffer = await self._take(size, identity(os.getpid()))
        try:
            held = _Held(part, header.checked().tobytes(), buffer)
            await asyncio.wait_for(self._fill(buffer, source, part), transfer_seconds(size))
            if held.intact:
                self._hold(held, since)
            return held.intact
        finally:
            buffer.writer = None
            self._sweep()

    async def gather(
        self, stamp: Stamp, others: Sequence[ActorHandle]
    ) -> list[tuple[bytes, SharedBuffer]]:
        """Bring all existing parts of a snapshot into this node's memory; returns them."""
        async with self._gathering:
            missing = {} if self._is_complete(stamp) else await self._sources(stamp, others)
            await asyncio.gather(*(self._get(part, there) for part, there in missing.items()))
        return [(held.header, held.buffer.shared) for held in self._parts(stamp)]

    async def _sources(
        self, stamp: Stamp, others: Sequence[ActorHandle]
    ) -> dict[SnapshotPart, list[ActorHandle]]:
        """The parts of a snapshot that other keepers have, each with all keepers that have it."""
        found: dict[SnapshotPart, list[ActorHandle]] = defaultdict(list)
        asked = (asyncio.wait_for(other.held.remote(), ANSWER_SECONDS) for other in others)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for other, held in zip(others, answers, strict=True):
            if isinstance(held, BaseException):
                log.warning("a keeper does not answer (%s)", type(held).__name__)
                continue
            for part in held:
                if part.stamp == stamp:
                    found[part].append(other)
        return found

    async def _get(self, part: SnapshotPart, sources: Sequence[ActorHandle]) -> None:
        """Copy a part from the first source that gives it."""
        for source in sources:
            try:
                if await self.copy(source, part, None):
                    return
            except (RayError, TimeoutError, OSError) as error:
                why = type(error).__name__
                log.warning("part %d of a snapshot can't be copied (%s)", part.number, why)

    def _parts(self, stamp: Stamp) -> list[_Held]:
        parts = [held for held in self._held.values() if held.part.stamp == stamp and held.intact]
        return sorted(parts, key=lambda held: held.part.number)

    def _is_complete(self, stamp: Stamp) -> bool:
        parts = self._parts(stamp)
        return bool(parts) and len(parts) == parts[0].part.parts

    async def _fill(self, buffer: Buffer, source: ActorHandle, part: SnapshotPart) -> None:
        """Copy a part's buffer from another keeper, some chunks at a time."""
        chunks = [
            asyncio.create_task(self._chunk(buffer, source, part, offset, CHUNK))
            for offset in range(HEAD.size, buffer.size, CHUNK)
        ]
        try:
            await asyncio.gather(*chunks)
        finally:
            # wait for all: none may write after a failure, when the buffer is freed
            for chunk in chunks:
                chunk.cancel()
        # Copy the stamp last: if it is still the right one, nothing was overwritten meanwhile.
        await self._chunk(buffer, source, part, 0, HEAD.size)

    async def _chunk(
        self, buffer: Buffer, source: ActorHandle, part: SnapshotPart, offset: int, size: int
    ) -> None:
        async with self._chunks:
            size = min(size, buffer.size - offset)
            os.pwrite(buffer.fd, await _fetched(source, part, offset, size), offset)

    # -------------------------------------------------------------------- memory

    async def _take(self, size: int, writer: str | None) -> Buffer:
        buffer = await asyncio.to_thread(allocate, size, writer)
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
        """Free buffers that hold nothing and have no living writer."""
        needed = {held.buffer.fd for held in self._held.values()}
        for buffer in list(self._buffers):
            if buffer.fd not in needed and not is_alive(buffer.writer):
                self._buffers.remove(buffer)
                os.close(buffer.fd)


class Onward(NamedTuple):
    """The two keepers of a copy: the one that has a part, and the one that gets it."""

    source: ActorHandle
    target: ActorHandle


def open_keeper(node_id: str) -> ActorHandle:
    """Start a keeper on a node. It ends when the opening process drops the handle."""
    options = {"label_selector": {"ray.io/node-id": node_id}, "scheduling_strategy": "DEFAULT"}
    return ray.remote(num_cpus=0)(Keeper).options(**options).remote()


class Keepers:
    """The keepers of a run; they end with the process that owns them."""

    def __init__(self) -> None:
        self.handles: dict[str, ActorHandle] = {}

    def open(self, node_ids: Set[str]) -> None:
        """Have a keeper on each of these nodes; replace dead ones."""
        for node in self._dead():
            del self.handles[node]
        for node in node_ids - self.handles.keys():
            self.handles[node] = open_keeper(node)

    def forget(self, node_ids: Set[str]) -> None:
        """End the keepers on these nodes."""
        for node in node_ids & self.handles.keys():
            ray.kill(self.handles.pop(node))

    def used(self) -> int:
        """Bytes that the keepers hold together, as far as they reply in time."""
        asked = [keeper.used.remote() for keeper in self.handles.values()]
        return sum(said(asked, PING_SECONDS))

    def release(self) -> None:
        """End all keepers."""
        self.forget(set(self.handles))

    def _dead(self) -> list[str]:
        asked = {keeper.used.remote(): node for node, keeper in self.handles.items()}
        return dead(asked, PING_SECONDS)


async def _fetched(source: ActorHandle, part: SnapshotPart, offset: int, size: int) -> memoryview:
    """Bytes of a part from another keeper; fetched again if the checksum is wrong.

    Raises:
        ChangedBytesError: if the checksum is wrong each time.
    """
    left = FETCHES
    while True:
        chunk: Chunk = await source.read.remote(part.stamp, part.number, offset, size)
        try:
            return await asyncio.to_thread(chunk.checked)
        except ChangedBytesError:
            left -= 1
            if not left:
                raise


def _is_late(error: RayTaskError) -> bool:
    return isinstance(error.cause, TimeoutError)


def _age(stamp: Stamp) -> tuple[int, int]:
    """A key that orders stamps by time: a later group may be at an earlier step."""
    return (stamp.attempt, stamp.step)
