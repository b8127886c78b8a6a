"""Keep what Ray and other libraries print in a file, apart from what a command prints."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STDERR = 2
# Length of the end of the libraries' output that is searched for a cause.
TAIL_BYTES = 4000


class Hushed:
    """The file that native libraries' standard error goes to meanwhile."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def tail(self) -> str:
        """The end of the libraries' output."""
        size = os.fstat(self._descriptor).st_size
        found = os.pread(self._descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
        return found.decode(errors="replace")

    def move_to(self, path: Path) -> None:
        """Write to the file `path` from now on, where people can find it."""
        said = self.tail()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError:  # then the output stays in the temporary file
            return
        os.write(descriptor, said.encode())
        os.dup2(descriptor, STDERR)
        os.dup2(descriptor, self._descriptor)
        os.close(descriptor)


@contextmanager
def hushed() -> Iterator[Hushed]:
    """Keep what Ray's C++ code writes to standard error from the terminal, for the block.

    Ray logs errors there that are normal for a run whose workers come and go, or that don't concern
    the user. `sys.stderr` still writes to the terminal, for Manta's own messages.
    """
    kept, before = os.dup(STDERR), sys.stderr
    ours = os.fdopen(os.dup(kept), "w", buffering=1, errors="backslashreplace")
    with ours, tempfile.TemporaryFile() as file:
        if _is_the_process_own(before):
            sys.stderr = ours
        os.dup2(file.fileno(), STDERR)
        try:
            yield Hushed(file.fileno())
        finally:
            os.dup2(kept, STDERR)
            os.close(kept)
            if sys.stderr is ours:
                sys.stderr = before


def _is_the_process_own(stream: Any) -> bool:
    """Whether a stream writes to the process's descriptor 2; a test's `sys.stderr` may not."""
    try:
        return bool(stream.fileno() == STDERR)
    except (AttributeError, OSError, ValueError):
        return False


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM after the block.

    When Ray connects it sets a handler of its own, and one in C++ that prints a stack trace.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def raylets_unheard() -> Iterator[None]:
    """Connect, in the block, without the thread that prints raylets' error messages.

    For a worker that died the thread prints "unexpected system error"; Manta itself reports the
    worker, and the message is in the raylet's log. The thread's function is internal to Ray 2.60;
    tests/cluster/test_hush.py guards it.
    """
    from ray._private import worker

    before = worker.listen_error_messages
    worker.listen_error_messages = _not_listening
    try:
        yield
    finally:
        worker.listen_error_messages = before


def _not_listening(worker: Any, threads_stopped: Any) -> None:
    """Replace Ray's `listen_error_messages`, and return at once."""
