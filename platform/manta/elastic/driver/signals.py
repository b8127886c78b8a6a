"""Ctrl-C and SIGTERM: the first one asks for an orderly stop, the second ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


@contextmanager
def stop_signals(asked_to_stop: threading.Event) -> Iterator[None]:
    """Set `asked_to_stop` at the first signal of the block, raise KeyboardInterrupt at the second.

    Python handles signals in the main thread; in other threads this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        for known in previous:
            signal.signal(known, _interrupt)
        asked_to_stop.set()  # nothing else, since the signal may have interrupted a call into Ray

    previous = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
