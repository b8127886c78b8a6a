"""What a rank tells the driver by the mailbox: progress, rows, checkpoints and warnings."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.actor import ActorHandle

from manta.elastic.messages.events import (
    CheckpointSaved,
    GroupStarted,
    Note,
    Rewound,
    RowLogged,
    StartTimed,
)
from manta.elastic.messages.group_start import Start
from manta.elastic.snapshot_memory import keeper_vault
from manta.elastic.worker import devices
from manta.elastic.worker.description import hardware, model
from manta.record.alert_record import ALERT, AlertCause
from manta.state.checkpoint_files import TrainState
from manta.state.skips import Spans
from manta.storage.place import Place
from manta.train.engine import Engine
from manta.train.reporter import Source

# Seconds between two signs of life of rank 0. A message takes a millisecond or two of CPU time at
# both ends, on cores that may be training.
SIGN_SECONDS = 0.5


class Lap:
    """A stopwatch for consecutive parts."""

    def __init__(self) -> None:
        self._since = time.time()

    def read(self) -> float:
        """Seconds since the last call."""
        before, self._since = self._since, time.time()
        return self._since - before


class MailReporter:
    """The engine's reporter, which sends to the driver's mailbox."""

    def __init__(self, mailbox: ActorHandle, here: Start, engine: Engine, starts: dict[str, float]):
        self._mailbox, self._attempt, self._hourly = mailbox, here.attempt, here.hourly
        self._world_size = engine.ranks.world_size
        self._model = model(engine)
        self._starts, self._logged = starts, False
        self._lap = Lap()
        self._steps, self._told, self._doing = 0, 0.0, ""

    def resumed(self, state: TrainState, rows: list[dict[str, Any]], *, source: Source) -> None:
        """Report that the group is formed, and the state it goes on from."""
        self._starts["state"] += self._lap.read()
        event = GroupStarted(
            world_size=self._world_size,
            attempt=self._attempt,
            step=state.step,
            tokens=state.tokens,
            source=source,
            rows=rows,
            hardware={**hardware(), **self._model},
            seconds=self._starts,
            hourly=self._hourly,
        )
        self._mailbox.put_rows.remote(self._attempt, len(rows), event)

    def recorded(self) -> int:
        """How many rows are durable at the driver. A round trip, once a checkpoint."""
        rows: int = ray.get(self._mailbox.recorded.remote(self._attempt))
        return rows

    def rewound(self, step: int, skips: Spans) -> None:
        """Report that rows after `step` are void, and the steps in `skips` are left out."""
        self._mailbox.put.remote(Rewound(step, skips))

    def stepped(self, state: TrainState) -> None:
        """Report a step as a sign of life, at most once in `SIGN_SECONDS`."""
        self._steps += 1
        if self._is_due(""):
            self._mailbox.stepped.remote(self._attempt, self._steps, state.tokens)

    def busy(self, doing: str, share: float = 0.0) -> None:
        """Report an activity other than a step as a sign of life."""
        if self._is_due(doing) or share == 1:
            self._mailbox.busy.remote(self._attempt, doing, share)

    def _is_due(self, doing: str) -> bool:
        """Whether a sign of life is due: at once if the activity changed."""
        now = time.monotonic()
        if doing == self._doing and now - self._told < SIGN_SECONDS:
            return False
        self._doing, self._told = doing, now
        return True

    def metrics(self, row: Mapping[str, Any], spent: Mapping[str, float]) -> None:
        """Report a row of metrics, and what the time went to."""
        if "loss" in row and not self._logged:
            self._logged = True
            self._timed("data_and_first_step")
        elif not self._logged:
            self._timed("first_evaluation")
        self._mailbox.put_rows.remote(self._attempt, 1, RowLogged(dict(row), dict(spent)))

    def checkpoint(self, state: TrainState, path: Place, seconds: float) -> None:
        """Report a complete checkpoint."""
        event = CheckpointSaved(state.step, state.tokens, str(path), seconds)
        self._mailbox.put.remote(event)

    def _timed(self, part: str) -> None:
        self._mailbox.put.remote(StartTimed({part: self._lap.read()}))


class _MailHandler(logging.Handler):
    """Sends the engine's warnings to the driver, for people."""

    def __init__(self, mailbox: ActorHandle):
        super().__init__(logging.WARNING)
        self._mailbox = mailbox

    def emit(self, record: logging.LogRecord) -> None:
        alert: AlertCause | None = getattr(record, ALERT, None)
        self._mailbox.put.remote(Note(record.getMessage(), alert))


def forward_warnings(mailbox: ActorHandle, rank: int) -> None:
    """Forward warnings: common ones from rank 0, those about a rank's own node from each."""
    own = (devices.__name__, keeper_vault.__name__)
    for name in ("manta",) if rank == 0 else own:
        logging.getLogger(name).handlers = [_MailHandler(mailbox)]
