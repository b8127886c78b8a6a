"""What a worker is told when its group starts, and how it is reached while it trains.

Light to import: it is unpickled in Ray Train's controller as well.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Regroup(Exception):
    """A worker has left its loop so that another group goes on. Not a failure."""


@dataclass
class Start:
    """A group's start, seen from one of its workers.

    Attributes:
        attempt: number of the group in the run.
        node: id of the node.
        keepers: the actors that keep snapshots, by node.
        micro_batch: most rows that were found to fit in a forward pass; None: as configured.
        first: whether it is the first group of its driver.
        seconds: what the start took so far, by its parts.
        began: when the controller handed over, seconds since the epoch.
    """

    attempt: int
    node: str
    keepers: dict[str, Any]
    micro_batch: int | None
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


def forget() -> None:
    """Forget the run that has ended."""
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
