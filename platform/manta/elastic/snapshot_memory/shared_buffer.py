"""Anonymous memory that processes on one node share, and that no death leaves behind.

A buffer is a memfd of the process that allocates it; others map it through
``/proc/<pid>/fd``. It begins with the stamp of the snapshot in it, zero while it is being
written. So whoever finds the stamp that he looks for finds all of that snapshot, whenever
its writer died.

There is no checksum of what lies here. It is as safe as the weights that are trained, from which it
was copied a moment ago and to which it goes back: no checksum covers those either, and one of
the copy would say nothing of them. Reading it all once more would cost as much as copying it. What
can go wrong here and not there is told: a write that was torn by the stamp, and bytes that went
over a network by the keepers, which compare a checksum of each message. What is to last lies in
checkpoints, whose files have checksums.
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

# Two that look at the same free memory at once would both take it.
_ALLOCATING = threading.Lock()
HEAD = struct.Struct("qq48x")  # step and attempt, filled up to a cache line
NO_STAMP = bytes(HEAD.size)


class SharedBuffer(NamedTuple):
    """A buffer that processes on its owner's node can map: `size` bytes with its head."""

    pid: int
    fd: int
    size: int


@dataclass
class Buffer:
    """Memory of this process; `writer` is the process that may write to it, if any."""

    fd: int
    size: int
    writer: str | None

    @property
    def place(self) -> SharedBuffer:
        """Where others find it."""
        return SharedBuffer(os.getpid(), self.fd, self.size)

    def stamp(self) -> Stamp:
        """The snapshot that lies in it."""
        return Stamp(*HEAD.unpack(os.pread(self.fd, HEAD.size, 0)))

    @cached_property
    def content(self) -> NDArray[np.uint8]:
        """All of it, head included, to be read; it stays as long as somebody holds a part."""
        return np.frombuffer(mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ), dtype=np.uint8)


@dataclass(frozen=True)
class Mapped:
    """A buffer, here or of another process, as memory of this process."""

    place: SharedBuffer
    memory: mmap.mmap

    @classmethod
    def of(cls, place: SharedBuffer) -> Mapped:
        """Map a buffer of a process on this node, and touch all its pages.

        A second a gigabyte, in which Python's other threads run: they would stand for that long
        if the kernel was asked for the pages, with MAP_POPULATE.

        Raises:
            OSError: if that process, or the right to look into it, is gone.
        """
        fd = os.open(f"/proc/{place.pid}/fd/{place.fd}", os.O_RDWR)
        try:
            memory = mmap.mmap(fd, place.size, flags=mmap.MAP_SHARED)
        finally:
            os.close(fd)
        np.bitwise_or.reduce(np.frombuffer(memory, dtype=np.uint8)[:: mmap.PAGESIZE])
        return cls(place, memory)

    @property
    def data(self) -> memoryview:
        """What comes after the head."""
        return memoryview(self.memory)[HEAD.size :]

    def begin(self) -> None:
        """From now on, and until it is stamped, nothing is in it."""
        self.memory[: HEAD.size] = NO_STAMP

    def stamp(self, stamp: Stamp) -> None:
        """All of this snapshot is in it."""
        self.memory[: HEAD.size] = HEAD.pack(*stamp)


def allocate(size: int, writer: str | None) -> Buffer:
    """Memory of `size` bytes with its pages in place, so that no writer has to wait for them.

    Raises:
        OSError: saying why the system has no such memory to give.
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
    """Look before the kernel does: in a container it kills for memory that is not there."""
    free = free_memory()
    # A checkpoint needs as much for as long as it is written, and the workers something too.
    if free is not None and 2 * size > free:
        raise OSError(
            f"{size / 1e9:,.1f} GB are wanted and as much again has to stay free, of "
            f"{free / 1e9:,.1f} GB that are free"
        )


def identity(pid: int) -> str | None:
    """A process's number and start time: numbers come again. None if it is not alive."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{pid} {fields[19]}"


def is_alive(process: str | None) -> bool:
    """Whether the process of an `identity` still lives."""
    return process is not None and identity(int(process.split()[0])) == process
