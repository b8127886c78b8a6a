"""Alerts in a run's record that W&B was not told of."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from manta.config.errors import RunError
from manta.record.alert_record import RunAlert
from manta.record.run_state import read_state_if_any
from manta.storage.run_folder import RUN


class AlertTail:
    """Reads the alerts of a run's record as they come.

    Args:
        run_dir: the run's folder.
        told: number of its alerts that were told before.
    """

    def __init__(self, run_dir: Path, told: int):
        self._run_dir, self._told = run_dir, told
        self._changed = 0

    def new(self) -> list[RunAlert]:
        """The alerts that came since the last call."""
        with suppress(OSError, RunError):  # the file is being replaced; the next call reads it
            changed = (self._run_dir / RUN).stat().st_mtime_ns
            if changed == self._changed:
                return []
            state = read_state_if_any(self._run_dir)
            self._changed = changed
            if state is not None:
                found = state.alerts[self._told :]
                self._told += len(found)
                return found
        return []
