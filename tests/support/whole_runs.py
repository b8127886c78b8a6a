"""Runs with all that `manta train` keeps, driver and engine in this process, without Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plain_runs import engine_of, streams_of

from manta.elastic.checks.preflight import Checked
from manta.record.run_state import GroupStart
from manta.show.tracker import Tracker
from manta.state.checkpoint_files import TrainState
from manta.state.skips import Spans
from manta.state.vault import Vault
from manta.train.engine import Engine
from manta.train.guards import Rewind
from manta.train.loop import Loop


class Killed(BaseException):
    """The driver and its workers are killed; a real one leaves as little behind."""


class Teller(logging.Handler):
    """Tells a tracker what the driver of a group would: the reporter and its warnings."""

    def __init__(self, tracker: Tracker):
        super().__init__(logging.WARNING)
        self._tracker = tracker

    def resumed(self, state: TrainState, rows: list[dict[str, Any]], *, source: str) -> None:
        self._tracker.backfill(rows)
        attempt = self._tracker.attempts + 1
        start = GroupStart(1, attempt, state.step, state.tokens, hardware={}, source=source)
        self._tracker.group_started(start)

    def rewound(self, step: int, skips: Spans) -> None:
        self._tracker.rewound(step, skips)

    def recorded(self) -> int:
        return self._tracker.recorded

    def stepped(self, state: TrainState) -> None:
        pass

    def busy(self, doing: str, share: float = 0.0) -> None:
        pass

    def metrics(self, row: Mapping[str, Any], spent: Mapping[str, float]) -> None:
        self._tracker.metrics(row)
        self._tracker.group_spent(row["step"], spent)

    def checkpoint(self, state: TrainState, path: Path, seconds: float) -> None:
        self._tracker.checkpoint(
            step=state.step, tokens=state.tokens, path=str(path), seconds=seconds
        )

    def emit(self, record: logging.LogRecord) -> None:
        self._tracker.note(record.getMessage())


def train_whole(
    checked: Checked,
    *,
    until: int | None = None,
    fault: Callable[[Engine], None] | None = None,
    vault: Vault | None = None,
) -> list[str]:
    """Train, as `manta train` does, on one rank; returns the run's events.

    With `until`, all is killed after that step, when its successor is asked for; with a fault
    that makes the run go back, at that. With a `vault`, there are snapshots in it.
    """
    tracker = checked.tracker(console=False)
    teller, logger = Teller(tracker), logging.getLogger("manta")
    logger.addHandler(teller)

    def streams(cursor: int):
        for batch in streams_of(checked)(cursor):
            yield batch
            if batch.step.number == until:
                raise Killed

    try:
        job = checked.job(tracker.attempts + 1, "here")
        engine = engine_of(checked)
        if fault is not None:
            fault(engine)
        outcome = Loop(job, engine, teller, vault).run(streams)
        assert outcome != "paused"
        tracker.finish(outcome)
    except (Killed, Rewind):
        tracker._record.close()
    except Exception as error:
        tracker.finish("failed", reason=str(error))
        raise
    finally:
        logger.removeHandler(teller)
    return [event.message for event in tracker._record.state.events]
