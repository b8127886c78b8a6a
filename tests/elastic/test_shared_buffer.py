"""Memory that processes of a node share."""

from __future__ import annotations

import mmap
import os
import resource

import numpy as np
import pytest

from manta.elastic.snapshot_memory import shared_buffer
from manta.elastic.snapshot_memory.shared_buffer import HEAD, Mapped, allocate, identity
from manta.state.vault import Stamp

SIZE = 2**26


def minor_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_writing_to_a_mapped_buffer_waits_for_no_page() -> None:
    buffer = allocate(SIZE, identity(os.getpid()))
    try:
        mapped = Mapped.of(buffer.shared)
        data = np.frombuffer(mapped.data, dtype=np.uint8)
        before = minor_faults()
        data[:] = 7
        assert minor_faults() - before < SIZE / mmap.PAGESIZE / 100
        mapped.stamp(Stamp(3, 1))
        assert buffer.stamp() == Stamp(3, 1)
        assert os.pread(buffer.fd, 1, HEAD.size) == b"\7"
    finally:
        os.close(buffer.fd)


def test_memory_that_would_be_killed_for_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(shared_buffer, "free_memory", lambda: 2 * SIZE - 1)
    with pytest.raises(OSError, match=r"0\.1 GB are needed and as much again has to stay free"):
        allocate(SIZE, None)
    assert len(os.listdir("/proc/self/fd")) == open_before
    for free in (2 * SIZE, None):
        monkeypatch.setattr(shared_buffer, "free_memory", lambda free=free: free)
        os.close(allocate(SIZE, None).fd)
