"""Memory that processes of a node share."""

from __future__ import annotations

import mmap
import os
import resource

import numpy as np

from manta.elastic.memory import HEAD, Mapped, allocate, identity
from manta.train.vault import Stamp

SIZE = 2**26


def minor_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_writing_to_a_mapped_buffer_waits_for_no_page() -> None:
    buffer = allocate(SIZE, identity(os.getpid()))
    assert buffer is not None
    try:
        mapped = Mapped.of(buffer.place)
        data = np.frombuffer(mapped.data, dtype=np.uint8)
        before = minor_faults()
        data[:] = 7
        assert minor_faults() - before < SIZE / mmap.PAGESIZE / 100
        mapped.stamp(Stamp(3, 1))
        assert buffer.stamp() == Stamp(3, 1)
        assert os.pread(buffer.fd, 1, HEAD.size) == b"\7"
    finally:
        os.close(buffer.fd)
