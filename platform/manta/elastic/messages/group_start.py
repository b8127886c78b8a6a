"""A worker's instructions at its group's start, and its handler for requests to pause.

Light to import: Ray Train's controller unpickles it, too.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar


class Regroup(Exception):
    """Raised when a worker left its loop so that another group can go on. Not a failure."""


class Severed(Regroup):
    """Raised when a worker left its loop because another one's process is gone."""


@dataclass
class Start:
    """The instructions for one worker at its group's start.

    Attributes:
        attempt: the group's number in the run.
        node: id of the worker's node.
        keepers: node id → the actor that keeps snapshots there.
        micro_batch: most rows that were found to fit in a forward pass; None: as configured.
        first: whether the group is the first one of its driver.
        joins: whether some of the group's workers were in the one before and still have the run
            in their processes.
        seconds: part of the start so far → seconds it took.
        began: time of the controller's handover, in seconds since the epoch.
        hourly: price of all of the group's devices for an hour; None if they have no price.
    """

    attempt: int
    node: str
    keepers: dict[str, Any]
    micro_batch: int | None
    first: bool
    joins: bool
    seconds: dict[str, float]
    began: float
    hourly: float | None = None
    environment: dict[str, str] = field(default_factory=dict)


class _Worker:
    """The state of this process as a worker of one group at a time.

    Attributes:
        start: the instructions of its start.
        outside: environment variable that the start set → its value before; None for none.
        pause: the most urgent pause that was asked for.
        on_pause: handler of pauses.
        ended: set once training has ended here.
        given_up: set once the group is given up.
    """

    start: Start | None = None
    outside: ClassVar[dict[str, str | None]] = {}
    pause: int = 0
    on_pause: Callable[[int], None] | None = None
    ended = threading.Event()
    given_up = threading.Event()


def begin(start: Start) -> None:
    """Store the instructions of this worker's start."""
    _leave_environment()
    _Worker.outside = {name: os.environ.get(name) for name in start.environment}
    os.environ.update(start.environment)
    _Worker.start = start
    _Worker.ended.clear()
    _Worker.given_up.clear()


def end() -> None:
    """Training has ended in this process."""
    _Worker.ended.set()


def give_up(seconds: float) -> bool:
    """Have this worker leave its group; returns whether it has within so many seconds."""
    _Worker.given_up.set()
    return _Worker.ended.wait(seconds)


def is_given_up() -> bool:
    """Whether the group of this worker is given up, so that it need not wait for others."""
    return _Worker.given_up.is_set()


def forget() -> None:
    """Clear the state after the group has ended."""
    _Worker.start, _Worker.pause, _Worker.on_pause = None, 0, None
    _leave_environment()


def _leave_environment() -> None:
    """Have the environment that this process had outside of groups.

    By the variables of a group, Accelerate would wait for that group's other ranks.
    """
    for name, value in _Worker.outside.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _Worker.outside = {}


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
