"""What a command prints while it waits for Ray: what it waits for and, if that takes long, why."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from manta.cluster.free_memory import free_memory

# On an idle machine Ray starts in less time than this.
LONG_SECONDS = 15.0


@contextmanager
def told(what: str) -> Iterator[None]:
    """Print `what` at once, and again every `LONG_SECONDS` until the block ends."""
    say(f"{what} …")
    done = threading.Event()

    def go_on() -> None:
        began = time.monotonic()
        while not done.wait(LONG_SECONDS):
            say(f"{what}: {time.monotonic() - began:.0f} s so far; {how_busy()}")

    thread = threading.Thread(target=go_on, name="manta-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def say(message: str) -> None:
    """Print a line without buffering, so that people see it at once."""
    print(message, flush=True)


def how_busy() -> str:
    """How busy this machine is, such as ``load 3.1 on 2 CPUs, 1.4 GiB of memory free``."""
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    free = free_memory()
    return load if free is None else f"{load}, {free / 2**30:.1f} GiB of memory free"
