"""The message for a process that is killed before it can print one itself.

Ray ends a driver at once, without an exception, when Ray's own processes on the machine are gone;
the kernel does so when memory runs out. A small process watches the driver, and prints the message.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FAREWELL = b"\0"
# The watcher reads until the pipe's other end is closed, by FAREWELL or by the driver's death.
WATCH = """
import sys
told = sys.stdin.buffer.read()
if not told.endswith(b"\\0"):
    logs = told.decode(errors="replace")
    sys.stderr.write(
        "error: this command was killed: perhaps because memory ran out, or by Ray, whose own "
        "processes on this machine have ended"
        + (f"; Ray's logs: {logs}" if logs else "") + ". Run the same command again to continue.\\n"
    )
"""


class Watched:
    """This process, while the watcher runs."""

    def __init__(self, pipe: int):
        self._pipe = pipe

    def logs_are_in(self, folder: str) -> None:
        """Have the message name the folder of Ray's logs."""
        with suppress(OSError):
            os.write(self._pipe, folder.encode())


@contextmanager
def watched() -> Iterator[Watched]:
    """Print an error if this process is killed within the block, so that it can't itself."""
    reads, writes = os.pipe()
    watcher = None
    try:
        with suppress(OSError):  # without memory for a watcher there is no message
            watcher = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", WATCH],
                stdin=reads,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C and a job's stop signal must not end the watcher
            )
        os.close(reads)
        yield Watched(writes)
    finally:
        with suppress(OSError):
            os.write(writes, FAREWELL)
        os.close(writes)
        if watcher is not None:
            watcher.wait()
