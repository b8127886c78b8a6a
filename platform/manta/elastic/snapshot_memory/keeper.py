"""The memory that outlives the workers: one small actor on each node, a *keeper*.

Workers on its node map a keeper's memory and copy their snapshots straight into it: no bytes
pass through Ray, and however a keeper dies, the kernel takes the memory back. What is
committed is copied on, in the keepers' processes, to the keeper of the next node; each message
of it has a checksum (why the memory itself has none is said in `shared_buffer`).
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

SLACK = 2**20  # bytes that a buffer is larger than asked for: the ledger rows in it grow
CHUNK = 2**25  # bytes a message between keepers
FETCHES = 3  # of a chunk that arrives changed
# Chunks that a keeper has asked for at a time, of whatever parts: while one is written the others
# travel. Each is in Ray's object store at both ends.
CHUNKS_AT_A_TIME = 8
# A keeper answers in milliseconds. One that does not is dead, or as good as dead.
ANSWER_SECONDS = 1.0
PING_SECONDS = 0.2
# One that copies for others answers late.
DESCRIBE_SECONDS = 30.0
# A part that comes more slowly than this is given up, be it one of many on a slow network.
SLOWEST = 10e6  # bytes a second


def transfer_seconds(size: float) -> float:
    """How long so many bytes may take from node to node."""
    return 30.0 + size / SLOWEST


class SnapshotPart(NamedTuple):
    """A rank's part of a snapshot, of `parts` in all."""

    stamp: Stamp
    number: int
    parts: int


class ChangedBytesError(OSError):
    """Bytes arrived from another node that are not those that were sent."""


class Chunk(NamedTuple):
    """Bytes on their way to another node, and their checksum.

    TCP's own checksum is 16 bits wide, and network cards compute it, after which the bytes still
    pass through the memory of both nodes. A buffer that its writer begins to write to anew on the
    way may fail the comparison too: then its snapshot is void in any case.
    """

    data: NDArray[np.uint8]
    crc32: int

    @classmethod
    async def of(cls, data: NDArray[np.uint8]) -> Chunk:
        """These bytes; their checksum is computed in a thread, as a keeper must answer at once."""
        return cls(data, await asyncio.to_thread(zlib.crc32, data.data))

    def checked(self) -> memoryview:
        """The bytes, as they were sent.

        Raises:
            ChangedBytesError: if they are others.
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
    """Holds parts of snapshots. An asynchronous actor: no call waits for another."""

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []
        self._held: dict[tuple[Stamp, int], _Held] = {}
        self._gathering = asyncio.Lock()
        self._chunks = asyncio.Semaphore(CHUNKS_AT_A_TIME)

    # ------------------------------------------------------ from the workers here

    async def lease(self, size: int, writer: str) -> SharedBuffer | str:
        """A buffer of `size` bytes with its head, for the process `writer` alone.

        The reason where there is no such memory. It goes with its writer, once nothing is held
        in it.
        """
        self._sweep()
        try:
            return (await self._take(size, writer)).place
        except OSError as error:
            return str(error)

    async def release(self, fds: Sequence[int]) -> None:
        """Leased buffers that their writer will not write to again."""
        for buffer in self._buffers:
            if buffer.fd in fds:
                buffer.writer = None
        self._sweep()

    async def commit(
        self, part: SnapshotPart, fd: int, header: bytes, since: Stamp | None, onward: Onward | None
    ) -> str | None:
        """Hold what was written to a leased buffer; ends when it is held in its second place too.

        Why it has no second place is returned, where it was to have one.

        Args:
            part: what it is.
            fd: of the buffer.
            header: what goes with it.
            since: the newest snapshot that is known to be whole: older ones are let go.
            onward: from where to where to copy it.
        """
        buffer = next((buffer for buffer in self._buffers if buffer.fd == fd), None)
        if buffer is None or buffer.stamp() != part.stamp:
            return None  # too late: it came from a group that is gone
        self._drop([key for key, held in self._held.items() if held.buffer is buffer])
        self._hold(_Held(part, header, buffer), since)
        if onward is None:
            return None
        try:
            copied = onward.target.copy.remote(onward.source, part, since)
            # It looks at the time itself; this is for one that is stuck.
            await asyncio.wait_for(copied, 2 * transfer_seconds(buffer.size))
        except RayTaskError as error:
            return "it took too long" if _is_late(error) else str(error.cause)
        except (RayError, TimeoutError) as error:
            # The group on that node has ended or will soon.
            log.warning("a snapshot has no second place (%s)", type(error).__name__)
        return None

    # ------------------------------------------------------------- from anywhere

    async def held(self) -> list[SnapshotPart]:
        """The parts that are here and whole."""
        return [held.part for held in self._held.values() if held.intact]

    async def used(self) -> int:
        """Bytes of memory that this keeper has taken."""
        return sum(buffer.size for buffer in self._buffers)

    async def describe(self, stamp: Stamp, number: int) -> tuple[Chunk, int] | None:
        """A part's header, and the size of its buffer with the head."""
        held = self._held.get((stamp, number))
        if held is None:
            return None
        header = np.frombuffer(held.header, dtype=np.uint8)
        return await Chunk.of(header), held.buffer.size

    async def read(self, stamp: Stamp, number: int, offset: int, size: int) -> Chunk:
        """Up to `size` bytes of a part's buffer from `offset` on; none if it is not here."""
        held = self._held.get((stamp, number))
        if held is None:
            return await Chunk.of(np.empty(0, dtype=np.uint8))
        # Not a copy: Ray makes one, straight from these pages into its object store.
        return await Chunk.of(held.buffer.content[offset : offset + size])

    async def copy(self, source: ActorHandle, part: SnapshotPart, since: Stamp | None) -> bool:
        """Get a part from the keeper `source` and hold it too. False if it is no longer there.

        Raises:
            OSError: if there is no memory for it, or it arrives changed each time.
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
        """All parts of a snapshot, as far as they exist, in this node's memory."""
        async with self._gathering:
            missing = {} if self._is_complete(stamp) else await self._sources(stamp, others)
            await asyncio.gather(*(self._get(part, there) for part, there in missing.items()))
        return [(held.header, held.buffer.place) for held in self._parts(stamp)]

    async def _sources(
        self, stamp: Stamp, others: Sequence[ActorHandle]
    ) -> dict[SnapshotPart, list[ActorHandle]]:
        """The parts of a snapshot that others have, each with all who have it."""
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
        """Have a part from the first that gives it."""
        for source in sources:
            try:
                if await self.copy(source, part, None):
                    return
            except (RayError, TimeoutError, OSError) as error:
                why = type(error).__name__
                log.warning("part %d of a snapshot can't be had (%s)", part.number, why)

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
            for chunk in chunks:  # none may write once this fails: the buffer is given back
                chunk.cancel()
        # The head last: if it is still the right one, nothing was rewritten meanwhile.
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


async def _fetched(source: ActorHandle, part: SnapshotPart, offset: int, size: int) -> memoryview:
    """Bytes of a part from another keeper; asked for again if they arrive changed.

    Raises:
        ChangedBytesError: if they do each time.
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
    """In the order of time: a later group may have gone back to an earlier step."""
    return (stamp.attempt, stamp.step)
