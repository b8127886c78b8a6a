"""What the workers say, passed on by the driver to the run's record and to who watches it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import ray
from ray.actor import ActorHandle

from manta.elastic.messages.mailbox import Message
from manta.record.run_state import GroupStart
from manta.show.tracker import Tracker


class Watcher(Protocol):
    """Someone who follows a run beside its record. Calls come from the driver's thread."""

    def metrics(self, row: Mapping[str, Any]) -> None:
        """A row of metrics is recorded."""

    def checkpoint(self, step: int) -> None:
        """The checkpoint after `step` is whole."""

    def wants_stop(self) -> bool:
        """Whether the run is to be saved and left at the next step."""
        ...


class Follower:
    """Turns the workers' messages into calls of the tracker."""

    def __init__(self, tracker: Tracker, watcher: Watcher | None = None):
        self._tracker, self._watcher = tracker, watcher
        self.outcome: Literal["finished", "stopped", "interrupted"] | None = None

    def take_from(self, mailbox: ActorHandle) -> None:
        """Pass on what came, and let the mailbox know how much of it is kept for good."""
        self._pass_on(ray.get(mailbox.take.remote(self._tracker.recorded)))

    def _pass_on(self, messages: list[Message]) -> None:
        for kind, content in messages:
            getattr(self, f"_{kind}")(content)

    def _started(self, content: dict[str, Any]) -> None:
        rows = content.pop("rows")
        self._tracker.backfill(rows)
        if self._watcher is not None:
            # Those of workers that outlived a killed driver: nobody was told of them.
            for row in rows:
                self._watcher.metrics(row)
        seconds = content.pop("starts")
        noticed = seconds.pop("noticed", None)
        self._tracker.group_started(GroupStart(**content, noticed=noticed))
        self._tracker.group_timed(seconds)

    def _rewound(self, content: dict[str, Any]) -> None:
        self._tracker.rewound(content["step"], content["skips"])

    def _snapshot_memory(self, content: dict[str, Any]) -> None:
        self._tracker.group_snapshots(content["bytes"])

    def _first_step(self, content: dict[str, Any]) -> None:
        self._tracker.group_timed(content)

    def _metrics(self, row: dict[str, Any]) -> None:
        self._tracker.metrics(row)
        if self._watcher is not None:
            self._watcher.metrics(row)

    def wants_stop(self) -> bool:
        """Whether who watches the run wants it to pause."""
        return self._watcher is not None and self._watcher.wants_stop()

    def _busy(self, content: dict[str, Any]) -> None:
        self._tracker.busy(content["doing"], content["share"])

    def _checkpoint(self, content: dict[str, Any]) -> None:
        state = content["state"]
        self._tracker.checkpoint(
            step=state["step"],
            tokens=state["tokens"],
            path=content["path"],
            seconds=content["seconds"],
        )
        if self._watcher is not None:
            self._watcher.checkpoint(state["step"])

    def _note(self, content: dict[str, Any]) -> None:
        self._tracker.note(content["message"])

    def _ended(self, content: dict[str, Any]) -> None:
        rank, reason = min(content["reasons"].items(), default=(0, "unknown"))
        self._tracker.group_ended(reason=reason if content["asked"] else f"worker {rank}: {reason}")

    def _outcome(self, content: dict[str, Any]) -> None:
        self.outcome = content["outcome"]
