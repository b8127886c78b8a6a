"""A rank's access to the keepers, for writing and loading snapshots."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from manta.elastic.cluster_state.actor_replies import arrived, said
from manta.elastic.snapshot_memory.keeper import (
    ANSWER_SECONDS,
    CHUNK,
    FETCHES,
    SLACK,
    ChangedBytesError,
    Chunk,
    Onward,
    SnapshotPart,
    transfer_seconds,
)
from manta.elastic.snapshot_memory.shared_buffer import HEAD, Mapped, SharedBuffer, identity
from manta.state.vault import Prepare, SnapshotShard, Stamp

log = logging.getLogger(__name__)
T = TypeVar("T")


class NoMemory(OSError):
    """A node lacks memory for snapshots; the message says how much it has."""


class KeeperVault:
    """One rank's `Vault`, backed by the keepers.

    Args:
        keepers: node id → keeper actor.
        node_id: this process's node; without a keeper there, it can load but not write.
        rank: this process's rank.
    """

    def __init__(self, keepers: Mapping[str, ActorHandle], node_id: str, rank: int):
        self._keepers, self._rank = dict(keepers), rank
        self._mine = keepers.get(node_id)
        self._others = [keeper for node, keeper in keepers.items() if node != node_id]
        self._onward = _onward(keepers, node_id)
        self._writer = identity(os.getpid())
        self._prepare: Prepare = lambda buffers: None
        self._coming: Future[list[Mapped]] | None = None
        self._buffers: list[Mapped] = []
        self._asked = self._size = self._turn = 0
        self._told = False
        self._pending: Any = None
        self._last: Stamp | None = None
        self._since: Stamp | None = None

    def prepare_with(self, prepare: Prepare) -> None:
        """See `Vault`."""
        self._prepare = prepare

    def free(self, size: int) -> bool:
        """See `Vault`."""
        try:
            return self._mine is not None and self._is_processed() and self._has_room(size)
        except NoMemory as error:
            log.warning("no snapshots in memory: %s", error)
        except (RayError, OSError, RuntimeError) as error:
            log.warning(
                "no more snapshots from rank %d: the keeper of its node can't be used (%s)",
                self._rank,
                type(error).__name__,
            )
        self._mine = None
        return False

    def _is_processed(self) -> bool:
        if self._pending is not None and arrived([self._pending]):
            reason = ray.get(self._pending)
            self._pending = None
            if reason and not self._told:
                self._told = True
                log.warning(
                    "snapshots are on one node only; the next node can't take them: %s", reason
                )
        return self._pending is None

    def _has_room(self, size: int) -> bool:
        if self._asked < size and self._coming is None:
            self._asked = size + SLACK
            wanted = HEAD.size + self._asked
            self._coming = _in_a_thread(lambda: self._leased(wanted))
        if self._coming is not None:
            if not self._coming.done():
                return False
            coming, self._coming = self._coming, None
            self._take(coming.result())
        return bool(self._buffers) and size <= self._size

    def _leased(self, size: int) -> list[Mapped]:
        """Two buffers with their pages in place; for large ones that takes seconds.

        Raises:
            NoMemory: if the node lacks the memory.
        """
        assert self._mine is not None
        places = ray.get([self._mine.lease.remote(size, self._writer) for _ in range(2)])
        if reasons := [place for place in places if isinstance(place, str)]:
            self._mine.release.remote([one.fd for one in places if isinstance(one, SharedBuffer)])
            raise NoMemory(reasons[0])
        buffers = [Mapped.of(place) for place in places]
        self._prepare([mapped.data for mapped in buffers])
        return buffers

    def _take(self, buffers: list[Mapped]) -> None:
        assert self._mine is not None
        self._mine.release.remote([mapped.shared.fd for mapped in self._buffers])
        self._buffers = buffers
        self._size = min(mapped.shared.size for mapped in buffers) - HEAD.size

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
        part = SnapshotPart(stamp, self._rank, parts)
        self._pending = self._mine.commit.remote(
            part, mapped.shared.fd, header, self._since, self._onward
        )
        self._last = stamp

    def whole(self) -> list[Stamp]:
        """See `Vault`."""
        found: dict[Stamp, set[SnapshotPart]] = defaultdict(set)
        for part in chain.from_iterable(self._answers("held")):
            found[part.stamp].add(part)
        return [stamp for stamp, parts in found.items() if len(parts) == min(parts).parts]

    def open(self, stamp: Stamp) -> list[SnapshotShard]:
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

    def since(self, stamp: Stamp) -> None:
        """See `Vault`."""
        self._since = stamp

    def release(self) -> None:
        """See `Vault`."""
        coming = []
        if self._coming is not None:
            with suppress(OSError, RayError, RuntimeError):  # then there is none to give back
                coming = self._coming.result()
        if self._mine is not None:
            given_back = [mapped.shared.fd for mapped in [*self._buffers, *coming]]
            self._mine.release.remote(given_back)
        self._mine, self._coming, self._buffers = None, None, []

    def _answers(self, method: str) -> list[Any]:
        """The replies of all living keepers to a method call."""
        asked = [getattr(keeper, method).remote() for keeper in self._keepers.values()]
        return said(asked, ANSWER_SECONDS)

    def _mapped(self, stamp: Stamp) -> list[SnapshotShard]:
        """All parts of a snapshot, mapped from this node's keeper."""
        assert self._mine is not None
        most = sum(self._answers("used"))
        gathered = self._mine.gather.remote(stamp, self._others)
        parts = ray.get(gathered, timeout=transfer_seconds(most))
        return [SnapshotShard(header, Mapped.of(place).data) for header, place in parts]

    def _fetched(self, stamp: Stamp) -> list[SnapshotShard]:
        """All parts of a snapshot, copied into this process."""
        found: dict[int, SnapshotShard] = {}
        for keeper in self._keepers.values():
            try:
                for part in ray.get(keeper.held.remote(), timeout=ANSWER_SECONDS):
                    if part.stamp == stamp and part.number not in found:
                        found[part.number] = _fetch(keeper, part)
            except RayError:
                continue
            except ChangedBytesError as error:
                log.warning("the snapshot of step %d can't be loaded: %s", stamp.step, error)
        return [found[number] for number in sorted(found)]


def _in_a_thread(act: Callable[[], T]) -> Future[T]:
    with_one = ThreadPoolExecutor(1, "manta-buffers")
    try:
        return with_one.submit(act)
    finally:
        with_one.shutdown(wait=False)


def _fetch(keeper: ActorHandle, part: SnapshotPart) -> SnapshotShard:
    """Copy a part from another node's keeper.

    Raises:
        RayError: if the keeper does not reply.
        ChangedBytesError: if the part does not arrive unchanged.
    """
    found = ray.get(keeper.describe.remote(part.stamp, part.number), timeout=ANSWER_SECONDS)
    if found is None:
        raise ChangedBytesError("the keeper has dropped it")
    header, size = found
    data = np.empty(size - HEAD.size, dtype=np.uint8)
    for offset in range(0, len(data), CHUNK):
        data[offset : offset + CHUNK] = _fetched(keeper, part, HEAD.size + offset)
    return SnapshotShard(header.checked().tobytes(), data.data)


def _fetched(keeper: ActorHandle, part: SnapshotPart, offset: int) -> memoryview:
    """Bytes of a part; fetched again if the checksum is wrong."""
    left = FETCHES
    while True:
        sent = keeper.read.remote(part.stamp, part.number, offset, CHUNK)
        chunk: Chunk = ray.get(sent, timeout=transfer_seconds(CHUNK))
        try:
            return chunk.checked()
        except ChangedBytesError:
            left -= 1
            if not left:
                raise


def _onward(keepers: Mapping[str, ActorHandle], node_id: str) -> Onward | None:
    """The copy from a node's keeper to that of the next node, in the order of node ids."""
    nodes = sorted(keepers)
    if node_id not in keepers or len(nodes) < 2:
        return None
    after = nodes[(nodes.index(node_id) + 1) % len(nodes)]
    return Onward(keepers[node_id], keepers[after])
