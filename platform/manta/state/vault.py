"""Where snapshots are kept: what the engine expects of memory that outlives its process.

Light to import, so that whoever keeps the memory need not load Torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class Stamp(NamedTuple):
    """Which snapshot: that after `step`, taken by the worker group `attempt`."""

    step: int
    attempt: int


class SnapshotShard(NamedTuple):
    """A rank's part of a snapshot: its header, JSON, and its buffer."""

    header: bytes
    data: memoryview


# Makes buffers fit to be written to, in place of those before.
Prepare = Callable[[Sequence[memoryview]], None]


class Vault(Protocol):
    """Memory that outlives this process, seen from one rank. No call raises."""

    def prepare_with(self, prepare: Prepare) -> None:
        """Have new buffers prepared before the first is written to, beside training: in a thread.

        To be called before any other method.
        """
        ...

    def free(self, size: int) -> bool:
        """Whether what was committed last is in all its places and `size` bytes can be written.

        Returns at once; where it says no, it prepares for a later yes.
        """
        ...

    def buffer(self) -> memoryview:
        """The memory to write to, once `free` has said yes on *all* ranks.

        From now on only the snapshot that was committed last can be restored.
        """
        ...

    def commit(self, stamp: Stamp, parts: int, header: bytes) -> None:
        """What was written last is this rank's part of `parts` of a snapshot. Returns at once."""

    def whole(self) -> list[Stamp]:
        """The snapshots of which every part is there. For the first rank."""
        ...

    def open(self, stamp: Stamp) -> list[SnapshotShard]:
        """All parts of a snapshot; fewer where some are gone."""
        ...

    def settle(self, seconds: float) -> bool:
        """Wait until what was committed last is in all its places, at most so long."""
        ...

    def since(self, stamp: Stamp) -> None:
        """A snapshot is whole, which another vault took: older ones may go with the next commit."""
        ...

    def release(self) -> None:
        """Give back the memory that was to be written to; what was committed stays.

        For a process that goes on without this vault. May wait for memory that is being prepared.
        """
        ...
