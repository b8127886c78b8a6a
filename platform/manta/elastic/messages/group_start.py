"""A worker's instructions at its group's start, and its handler for requests to pause.

Light to import: Ray Train's controller unpickles it, too.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Regroup(Exception):
    """Raised when a worker left its loop so that another group can go on. Not a failure."""


@dataclass
class Start:
    """The instructions for one worker at its group's start.

    Attributes:
        attempt: the group's number in the run.
        node: id of the worker's node.
        keepers: node id → the actor that keeps snapshots there.
        micro_batch: most rows that were found to fit in a forward pass; None: as configured.
        first: whether the group is the first one of its driver.
        seconds: part of the start so far → seconds it took.
        began: time of the controller's handover, in seconds since the epoch.
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
    """The state of this process as a worker of one group at a time."""

    start: Start | None = None
    pause: int = 0
    on_pause: Callable[[int], None] | None = None


def begin(start: Start) -> None:
    """Store the instructions of this worker's start."""
    os.environ.update(start.environment)
    _Worker.start = start


def forget() -> None:
    """Clear the state after the run has ended."""
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
    """Register the handler for pauses; a pause that was asked for already calls it now."""
    _Worker.on_pause = act
    if _Worker.pause:
        act(_Worker.pause)


def free_port() -> int:
    """A port that is free on this node, for the group's rendezvous."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
