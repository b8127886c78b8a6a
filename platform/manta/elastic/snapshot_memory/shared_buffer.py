"""Anonymous memory that processes on one node share, and that no crash leaks.

A buffer is a memfd of the process that allocates it; others map it through
``/proc/<pid>/fd``. It begins with the stamp of the snapshot in it, which is zero while it is
being written. So a buffer with the right stamp holds the complete snapshot, whenever its
writer died.

The content has no checksum. It is as safe as the weights in memory that it was copied from, which
have no checksum either; one of the copy would say nothing about them, and reading everything once
more would cost as much as copying it. Errors that only a snapshot can have are detected: torn
writes by the stamp, and network errors by the keepers' checksum of each message. For durability
there are checkpoints, whose files have checksums.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from manta.cluster.free_memory import free_memory
from manta.state.vault import Stamp

# Serialises allocations: two threads could otherwise both claim the same free memory.
_ALLOCATING = threading.Lock()
HEAD = struct.Struct("qq48x")  # the stamp: step and attempt, padded to a cache line
NO_STAMP = bytes(HEAD.size)


class SharedBuffer(NamedTuple):
    """A buffer that processes on its owner's node can map: `size` bytes with its stamp."""

    pid: int
    fd: int
    size: int


@dataclass
class Buffer:
    """A buffer of this process; `writer` is the process that may write to it, if any."""

    fd: int
    size: int
    writer: str | None

    @property
    def shared(self) -> SharedBuffer:
        """The description by which other processes map the buffer."""
        return SharedBuffer(os.getpid(), self.fd, self.size)

    def stamp(self) -> Stamp:
        """The stamp of the snapshot in the buffer."""
        return Stamp(*HEAD.unpack(os.pread(self.fd, HEAD.size, 0)))

    @cached_property
    def content(self) -> NDArray[np.uint8]:
        """The whole buffer with its stamp, read-only; it lives as long as a view of it."""
        return np.frombuffer(mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ), dtype=np.uint8)


@dataclass(frozen=True)
class Mapped:
    """A buffer of this or another process, mapped into this process."""

    shared: SharedBuffer
    memory: mmap.mmap

    @classmethod
    def of(cls, shared: SharedBuffer) -> Mapped:
        """Map a buffer of a process on this node, and fault in all its pages.

        That takes a second a gigabyte, during which other Python threads run: MAP_POPULATE would
        block them, because mmap() keeps the GIL.

        Raises:
            OSError: if that process has ended, or may not be accessed.
        """
        fd = os.open(f"/proc/{shared.pid}/fd/{shared.fd}", os.O_RDWR)
        try:
            memory = mmap.mmap(fd, shared.size, flags=mmap.MAP_SHARED)
        finally:
            os.close(fd)
        np.bitwise_or.reduce(np.frombuffer(memory, dtype=np.uint8)[:: mmap.PAGESIZE])
        return cls(shared, memory)

    @property
    def data(self) -> memoryview:
        """The bytes after the stamp."""
        return memoryview(self.memory)[HEAD.size :]

    def begin(self) -> None:
        """Clear the stamp: until the next one, the buffer holds no snapshot."""
        self.memory[: HEAD.size] = NO_STAMP

    def stamp(self, stamp: Stamp) -> None:
        """Set the stamp: the buffer holds this complete snapshot."""
        self.memory[: HEAD.size] = HEAD.pack(*stamp)


def allocate(size: int, writer: str | None) -> Buffer:
    """Allocate `size` bytes with all pages faulted in, so that no writer has to wait.

    Raises:
        OSError: naming why the system can't give this memory.
    """
    if not hasattr(os, "memfd_create"):
        raise OSError("only Linux has memory that outlives a process without a file")
    with _ALLOCATING:
        _refuse_too_much(size)
        fd = os.memfd_create("manta-snapshot")
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError:
            os.close(fd)
            raise
    return Buffer(fd, size, writer)


def _refuse_too_much(size: int) -> None:
    """Check free memory first: in a container, the kernel's OOM killer would act instead."""
    free = free_memory()
    # A checkpoint needs the same amount while it is written, and the workers need some, too.
    if free is not None and 2 * size > free:
        raise OSError(
            f"{size / 1e9:,.1f} GB are needed and as much again has to stay free, but only "
            f"{free / 1e9:,.1f} GB are free"
        )


def identity(pid: int) -> str | None:
    """A process's pid and start time, since pids are reused; None if it is not alive."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{pid} {fields[19]}"


def is_alive(process: str | None) -> bool:
    """Whether the process of an `identity` still lives."""
    return process is not None and identity(int(process.split()[0])) == process
