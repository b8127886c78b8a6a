"""What Ray and other libraries say is kept in a file, away from what a command says."""

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
# Of what was said, the most that is looked at for a cause.
TAIL_BYTES = 4000


class Hushed:
    """Where native libraries' standard error goes meanwhile."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def tail(self) -> str:
        """The end of what was said."""
        size = os.fstat(self._descriptor).st_size
        found = os.pread(self._descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
        return found.decode(errors="replace")

    def move_to(self, path: Path) -> None:
        """Go on in another file, that people can find."""
        said = self.tail()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError:  # then it stays where it is
            return
        os.write(descriptor, said.encode())
        os.dup2(descriptor, STDERR)
        os.dup2(descriptor, self._descriptor)
        os.close(descriptor)


@contextmanager
def hushed() -> Iterator[Hushed]:
    """Keep what Ray's C++ code writes to standard error from the terminal, for the block.

    It logs errors there that are everyday business of a run whose workers come and go, or none of
    the user's. `sys.stderr` stays what it was, so that Manta is heard.
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
    """Whether a stream writes to the process's standard error; that of a test may not."""
    try:
        return bool(stream.fileno() == STDERR)
    except (AttributeError, OSError, ValueError):
        return False


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM.

    Ray, when it connects, puts in its own, and below it one that prints a stack trace.
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
    """Connect, in the block, without the thread that prints what raylets say to all drivers.

    Of a worker that died it says "unexpected system error"; Manta says itself who died, and it is
    in the raylet's log. The thread's function is internal to Ray 2.60; tests/cluster/test_hush.py
    guards it.
    """
    from ray._private import worker

    before = worker.listen_error_messages
    worker.listen_error_messages = _not_listening
    try:
        yield
    finally:
        worker.listen_error_messages = before


def _not_listening(worker: Any, threads_stopped: Any) -> None:
    """In the place of Ray's `listen_error_messages`."""
