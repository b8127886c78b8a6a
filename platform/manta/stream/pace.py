"""How often a dataset's executor looks for work.

The executor of Ray Data 2.60 has a thread in the process that trains. While blocks are on
their way it waits for them; while it may not read on, because enough lies ahead, it looks
for work without a pause, on a whole core and with the interpreter's lock.

Ray Data calls what `DataContext.custom_execution_callback_classes` makes at each of its
looks. That is documented nowhere, so tests/stream/test_pace.py guards it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from threading import Event
from typing import Any

# Between two looks, in seconds: at first after a block was taken, then twice as long each time.
# What became of the reads that it led to is seen late by no more than the time they took.
SHORTEST, LONGEST = 0.005, 60.0


class Pace:
    """Lets an executor look for work while a block is waited for, and else ever more rarely.

    One for each execution. What Ray sends away with a dataset's settings is another, of no effect.
    """

    def __init__(self) -> None:
        self._wanted = Event()
        self._ended = False
        self._pause = SHORTEST

    def __reduce__(self) -> tuple[type[Pace], tuple[()]]:
        return Pace, ()

    def itself(self) -> Pace:
        """For Ray Data, which wants something to call for a callback."""
        return self

    @contextmanager
    def wanting(self) -> Generator[None, None, None]:
        """To be held while a block is waited for, or taken."""
        self._wanted.set()
        try:
            yield
        finally:
            self._pause = SHORTEST
            if not self._ended:
                self._wanted.clear()

    def close(self) -> None:
        """No more pauses: the execution is to come to its end."""
        self._ended = True
        self._wanted.set()

    # ------------------------------------------------------ what Ray Data calls

    def before_execution_starts(self, executor: Any) -> None:
        """Nothing."""

    def on_execution_step(self, executor: Any) -> None:
        """Pause, unless a block is waited for."""
        if not self._wanted.wait(self._pause):
            self._pause = min(2 * self._pause, LONGEST)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing."""
