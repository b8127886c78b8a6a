"""Passes the workers' messages on to the run's record and its watcher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, Protocol, assert_never

import ray
from ray.actor import ActorHandle

from manta.elastic.messages.events import (
    Busy,
    CheckpointSaved,
    Ended,
    EvaluationBegun,
    Event,
    GroupEnded,
    GroupStarted,
    Note,
    Rewound,
    RowLogged,
    SnapshotMemory,
    StartTimed,
)
from manta.record.alert_record import AlertCause
from manta.record.run_state import GroupStart
from manta.show.tracker import Tracker


def stalled(tracker: Tracker) -> AlertCause:
    """The cause of an alert of workers that make no progress: the step after which."""
    return AlertCause("stall", f"after step {tracker.totals.steps}")


class Watcher(Protocol):
    """Follows a run beside its record. All calls come from the driver's thread."""

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Called when a row of metrics is recorded."""

    def checkpoint(self, step: int) -> None:
        """Called when the checkpoint after `step` is complete."""

    def wants_stop(self) -> bool:
        """Whether the run should be saved and left at the next step."""
        ...


class Beside(Protocol):
    """What goes on beside training, on the run's checkpoints."""

    def checkpoint(self, step: int) -> None:
        """Called when the checkpoint after `step` is complete."""

    def begun(self, step: int) -> None:
        """Called when the evaluation of that checkpoint has its device."""

    def rewound(self, step: int) -> None:
        """Called when the run goes back to `step` or before."""


class Follower:
    """Turns the events of a run into calls of its tracker."""

    def __init__(
        self, tracker: Tracker, watcher: Watcher | None = None, beside: Beside | None = None
    ):
        self._tracker, self._watcher, self._beside = tracker, watcher, beside
        self.outcome: Literal["finished", "stopped", "interrupted"] | None = None

    def take_from(self, mailbox: ActorHandle) -> None:
        """Pass on new messages, and tell the mailbox how many rows are durable."""
        for event in ray.get(mailbox.take.remote(self._tracker.recorded)):
            self._pass_on(event)

    def _pass_on(self, event: Event) -> None:
        """Tell the tracker, and who watches, of one event."""
        tracker = self._tracker
        match event:
            case GroupStarted():
                self._started(event)
            case GroupEnded():
                rank, reason = min(event.reasons.items(), default=(0, "unknown"))
                reason = reason if event.asked else f"worker {rank}: {reason}"
                if event.hung:
                    tracker.alert(stalled(tracker), reason)
                tracker.group_ended(reason=reason)
            case StartTimed(seconds):
                tracker.group_timed(seconds)
            case Rewound(step, skips):
                tracker.rewound(step, skips)
                if self._beside is not None:
                    self._beside.rewound(step)
            case RowLogged(row, spent):
                tracker.metrics(row)
                tracker.group_spent(row["step"], spent)
                if self._watcher is not None:
                    self._watcher.metrics(row)
            case Busy(doing, share):
                tracker.busy(doing, share)
            case CheckpointSaved():
                tracker.checkpoint(**asdict(event))
                if self._watcher is not None:
                    self._watcher.checkpoint(event.step)
                if self._beside is not None:
                    self._beside.checkpoint(event.step)
            case EvaluationBegun(step):
                if self._beside is not None:
                    self._beside.begun(step)
            case SnapshotMemory(used):
                tracker.group_snapshots(used)
            case Note(message, alert):
                tracker.note(message)
                if alert is not None:
                    tracker.alert(alert, message)
            case Ended(outcome):
                self.outcome = outcome
            case _:
                assert_never(event)

    def _started(self, event: GroupStarted) -> None:
        self._tracker.backfill(event.rows)
        if self._watcher is not None:
            # Rows of workers that outlived a killed driver, which never recorded them.
            for row in event.rows:
                self._watcher.metrics(row)
        seconds = dict(event.seconds)
        noticed = seconds.pop("noticed", None)
        self._tracker.group_started(
            GroupStart(
                event.world_size,
                event.attempt,
                step=event.step,
                tokens=event.tokens,
                hardware=event.hardware,
                source=event.source,
                noticed=noticed,
                hourly=event.hourly,
            )
        )
        self._tracker.group_timed(seconds)

    def wants_stop(self) -> bool:
        """Whether the watcher wants the run to pause."""
        return self._watcher is not None and self._watcher.wants_stop()
