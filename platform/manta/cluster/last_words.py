"""What is said for a process that is ended before it can say anything.

Ray ends a driver at once, without an exception, when its own processes on the machine are gone; so
does the system when memory runs out. A small process beside it notices, and says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FAREWELL = b"\0"
# Reads until the last process that has the other end of the pipe is gone.
WATCH = """
import sys
told = sys.stdin.buffer.read()
if not told.endswith(b"\\0"):
    logs = told.decode(errors="replace")
    sys.stderr.write(
        "error: this command was ended from outside before it could say why: killed, for want of "
        "memory perhaps, or by Ray, whose own processes on this machine are gone"
        + (f"; its logs: {logs}" if logs else "") + ". The same command goes on.\\n"
    )
"""


class Watched:
    """This process, while another one watches it."""

    def __init__(self, pipe: int):
        self._pipe = pipe

    def logs_are_in(self, folder: str) -> None:
        """Say where people find more, if it comes to that."""
        with suppress(OSError):
            os.write(self._pipe, folder.encode())


@contextmanager
def watched() -> Iterator[Watched]:
    """Have it said on this process's standard error if it ends within the block, without Python."""
    reads, writes = os.pipe()
    watcher = None
    try:
        with suppress(OSError):  # no room for a process: then nothing is said
            watcher = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", WATCH],
                stdin=reads,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C and the end of a job are for this process
            )
        os.close(reads)
        yield Watched(writes)
    finally:
        with suppress(OSError):
            os.write(writes, FAREWELL)
        os.close(writes)
        if watcher is not None:
            watcher.wait()
