"""How often a dataset's executor looks for work.

The executor of Ray Data 2.60 has a thread in the process that trains. While blocks are being
read it waits for them; but while it may not start another read, because enough blocks are ready,
it polls without a pause, taking a whole core and Python's global interpreter lock (GIL).

At each poll Ray Data calls an object made from `DataContext.custom_execution_callback_classes`,
and this one pauses. That attribute isn't documented, so tests/stream/test_pace.py guards it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from threading import Event
from typing import Any

# Seconds between two polls: SHORTEST after a block was taken, then twice as long each time up to
# LONGEST. So the end of a read is noticed after at most twice the time that it took.
SHORTEST, LONGEST = 0.005, 60.0


class Pace:
    """Lets an executor poll freely while a block is waited for, and ever more rarely otherwise.

    There is one for each execution. Copies that Ray pickles with a dataset's settings do nothing.
    """

    def __init__(self) -> None:
        self._wanted = Event()
        self._ended = False
        self._pause = SHORTEST

    def __reduce__(self) -> tuple[type[Pace], tuple[()]]:
        return Pace, ()

    def itself(self) -> Pace:
        """This object; Ray Data calls a factory to get its callback."""
        return self

    @contextmanager
    def wanting(self) -> Generator[None, None, None]:
        """A context to be in while a block is waited for or taken."""
        self._wanted.set()
        try:
            yield
        finally:
            self._pause = SHORTEST
            if not self._ended:
                self._wanted.clear()

    def close(self) -> None:
        """End all pauses, so that the execution can end."""
        self._ended = True
        self._wanted.set()

    # ------------------------------------------------------ what Ray Data calls

    def before_execution_starts(self, executor: Any) -> None:
        """Do nothing."""

    def on_execution_step(self, executor: Any) -> None:
        """Pause, unless a block is waited for."""
        if not self._wanted.wait(self._pause):
            self._pause = min(2 * self._pause, LONGEST)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Do nothing."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Do nothing."""
