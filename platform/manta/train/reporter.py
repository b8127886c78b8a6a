"""What a training loop says of itself to whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from manta.state.checkpoint_files import TrainState
from manta.state.skips import Spans
from manta.storage.place import Place

# What a group of workers goes on from.
Source = Literal["survivors", "snapshot", "checkpoint", "start"]


class Reporter(Protocol):
    """Where the ranks tell what happens; most of it the first alone. Calls must not block."""

    def resumed(self, state: TrainState, rows: list[dict[str, Any]], *, source: Source) -> None:
        """Training starts from `state`; `rows` of metrics may not be on the driver's disk."""

    def rewound(self, step: int, skips: Spans) -> None:
        """Training starts again from a state at or before `step`: rows after it are void.

        Args:
            step: the last whose rows hold.
            skips: the steps that rewinds leave out, as spans of their numbers.
        """

    def recorded(self) -> int:
        """How many rows told so far, those of `resumed` among them, are on disk for good."""
        ...

    def stepped(self, state: TrainState) -> None:
        """A step is done, or at least on its way on the device."""

    def busy(self, doing: str, share: float = 0.0) -> None:
        """Something else than a step goes on, on any rank: a sign of life.

        Args:
            doing: present activity, such as "evaluating".
            share: share of the activity that is done; 0 as long as its progress is unknown.
        """

    def metrics(self, row: Mapping[str, Any], spent: Mapping[str, float]) -> None:
        """A row of metrics, and what the loop's time went to by now: activity → seconds."""

    def checkpoint(self, state: TrainState, path: Place, seconds: float) -> None:
        """A checkpoint is whole, `seconds` after its save began."""
