"""The checksum of a file, computed in a thread of its own while the file is written.

Who writes, which for a lone rank is the training thread, copies what it writes and goes on: the
hash runs beside the writing and the wait for the disk, not after them. The copies that wait to be
hashed are bounded.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

# Handed to the thread at a time. Torch writes many headers of some bytes beside each tensor.
PIECE = 4 * 2**20
# Pieces that may wait to be hashed.
MOST_WAITING = 8


class HashingStream:
    """What a file is written by, from begin to end; what is not written is the file's own."""

    def __init__(self, stream: io.IOBase):
        self._stream, self._sha256 = stream, hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, "manta-checksum")
        self._waiting: deque[Future[None]] = deque()
        self._collected = bytearray()

    def write(self, content: Any) -> int:
        """Write all of it, and have it hashed."""
        view = memoryview(content).cast("B")
        for at in range(0, len(view), PIECE):
            piece = view[at : at + PIECE]
            # A copy: what Torch gives is its own again once this returns.
            self._collected += piece
            if len(self._collected) >= PIECE:
                self._hand_over()
            self._stream.write(piece)
        return len(view)

    def _hand_over(self) -> None:
        piece, self._collected = self._collected, bytearray()
        self._waiting.append(self._thread.submit(self._sha256.update, piece))
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popleft().result()

    def checksum(self) -> str:
        """The SHA-256 of all that was written. Nothing can be written after it."""
        self._hand_over()
        self.end()
        return self._sha256.hexdigest()

    def end(self) -> None:
        """End the thread, once it has hashed what it was given. Harmless when called again."""
        self._thread.shutdown()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def hashed(
    opened: AbstractContextManager[io.IOBase], path: str | os.PathLike[str], into: dict[str, str]
) -> Iterator[io.IOBase]:
    """A stream whose checksum is put `into` a mapping, by the file's name, once it is written."""
    with opened as stream:
        hashing = HashingStream(stream)
        try:
            yield cast(io.IOBase, hashing)
            checksum = hashing.checksum()
        finally:
            hashing.end()
    into[os.path.basename(os.fspath(path)).removesuffix(".tmp")] = checksum
