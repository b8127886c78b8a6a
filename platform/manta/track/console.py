"""What people see while a run trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manta.track.state import RunState


class RunConsole:
    """The live line and the summary."""

    def __init__(self, state: RunState, *, enabled: bool) -> None:
        self._enabled = enabled

    def group_started(self, state: RunState) -> None: ...
    def group_ended(self, reason: str) -> None: ...
    def row(self, row: Mapping[str, Any]) -> None: ...
    def note(self, message: str) -> None:
        if self._enabled:
            print(message, flush=True)
