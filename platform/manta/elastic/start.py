"""What a worker is told when its group starts, and how it is reached while it trains.

Light to import: it is unpickled in Ray Train's controller as well.
"""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manta.config.errors import ConfigError

if TYPE_CHECKING:
    from manta.elastic.preflight import Checked
    from manta.train.tried import Tried


class Regroup(Exception):
    """A worker has left its loop so that another group goes on. Not a failure."""


@dataclass
class Start:
    """A group's start, seen from one of its workers.

    Attributes:
        attempt: number of the group in the run.
        node: id of the node.
        keepers: the actors that keep snapshots, by node.
        micro_batch: most rows in a forward pass.
        first: whether it is the first group of its driver.
        seconds: what the start took so far, by its parts.
        began: when the controller handed over, seconds since the epoch.
    """

    attempt: int
    node: str
    keepers: dict[str, Any]
    micro_batch: int
    first: bool
    seconds: dict[str, float]
    began: float
    environment: dict[str, str] = field(default_factory=dict)


class _Worker:
    """The state of this process as a worker, of one group at a time."""

    start: Start | None = None
    pause: int = 0
    on_pause: Callable[[int], None] | None = None


def begin(start: Start) -> None:
    """Take a start's instructions."""
    os.environ.update(start.environment)
    _Worker.start = start


def retire() -> None:
    """Forget the run that has ended, so that this process can be a worker of another."""
    from manta.elastic.worker import clear

    clear()
    _Worker.start, _Worker.pause, _Worker.on_pause = None, 0, None


def current() -> Start:
    """The instructions of this worker's start."""
    assert _Worker.start is not None, "a worker trains only after `begin`"
    return _Worker.start


def ask_pause(pause: int) -> None:
    """Ask this worker for a pause, now or as soon as it trains."""
    _Worker.pause = max(_Worker.pause, pause)
    if _Worker.on_pause is not None:
        _Worker.on_pause(_Worker.pause)


def on_pause(act: Callable[[int], None]) -> None:
    """Say what to do when a pause is asked for, or has been."""
    _Worker.on_pause = act
    if _Worker.pause:
        act(_Worker.pause)


def free_port() -> int:
    """A port that is free on this node, for the group's rendezvous."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


def warm() -> float:
    """Import what training needs; returns the seconds it took."""
    began = time.time()
    with _without_gc():
        import manta.elastic.worker  # noqa: F401
    # Half a million objects that stay: to look for garbage among them, again and again while
    # they are made, is a fourth of the time, and each later look would be as long.
    gc.freeze()
    return time.time() - began


def try_model(checked: Checked) -> Tried | str:
    """What is known of the model of a run, or what is wrong; imports what it takes to know."""
    with _without_gc():
        from manta.elastic import preflight

        try:
            return preflight.try_model(checked)
        except ConfigError as error:
            return str(error)


@contextmanager
def _without_gc() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
