"""What a run's workers and controller tell its driver: each kind of news is a type.

Light to import: the mailbox that carries them is an actor without the training stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from manta.record.alert_record import AlertCause


@dataclass(frozen=True)
class GroupStarted:
    """A worker group is formed and knows where it goes on.

    Attributes:
        world_size: number of its workers.
        attempt: number of the group in the run.
        step: the last step that its state has.
        tokens: tokens consumed by then.
        source: origin of the state: processes of the group before, a snapshot, a checkpoint or a
            fresh start.
        rows: metrics rows that came with the state; the driver may lack them.
        hardware: the first worker's device, and facts of the model that it trains.
        seconds: duration of the start, by its parts.
        hourly: price of all of its devices for an hour; None if they have no price.
    """

    world_size: int
    attempt: int
    step: int
    tokens: int
    source: Literal["start", "checkpoint", "snapshot", "survivors"]
    rows: list[dict[str, Any]]
    hardware: dict[str, Any]
    seconds: dict[str, float]
    hourly: float | None = None


@dataclass(frozen=True)
class GroupEnded:
    """A worker group has ended.

    Attributes:
        reasons: a line for each worker that failed, by rank; only the lost ones if some were.
        asked: whether the group was asked to stop, so that another group goes on.
        hung: whether the group ended because it gave no sign of life any more.
    """

    reasons: Mapping[int, str]
    asked: bool
    hung: bool = False


@dataclass(frozen=True)
class StartTimed:
    """More of what a group's start took, in seconds by its parts."""

    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Rewound:
    """Rows after `step` are void, and the steps of the spans `skips` are left out."""

    step: int
    skips: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class RowLogged:
    """A row of metrics.

    Attributes:
        row: the row.
        spent: seconds of the group by activity, since its first step.
    """

    row: dict[str, Any]
    spent: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Busy:
    """Something else than a step goes on, of which a share is done."""

    doing: str
    share: float


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is whole.

    Attributes:
        step: the last step in it.
        tokens: tokens consumed by then.
        path: the checkpoint's folder or URL.
        seconds: duration since the start of the save.
    """

    step: int
    tokens: int
    path: str
    seconds: float


@dataclass(frozen=True)
class EvaluationBegun:
    """The evaluation of the checkpoint after a step has its device, and begins."""

    step: int


@dataclass(frozen=True)
class SnapshotMemory:
    """How many bytes the keepers of all nodes have in use."""

    used: int


@dataclass(frozen=True)
class Note:
    """A message for the person at the driver and for the run's record.

    Attributes:
        message: the message.
        alert: cause of the alert that the message is; None without one.
    """

    message: str
    alert: AlertCause | None = None


@dataclass(frozen=True)
class Ended:
    """The run has ended, by itself or because it was asked to."""

    outcome: Literal["finished", "stopped", "interrupted"]


Event = (
    GroupStarted
    | GroupEnded
    | StartTimed
    | Rewound
    | RowLogged
    | Busy
    | CheckpointSaved
    | EvaluationBegun
    | SnapshotMemory
    | Note
    | Ended
)
