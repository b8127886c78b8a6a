"""W&B beside the training: a thread that logs, and that may fail without harm.

The training's thread only puts rows in a queue. Everything that may wait for a network
(import, login, opening, uploading) happens in the thread. If W&B can't be reached, the
run goes on offline; if the thread is lost altogether, `metrics.jsonl` still has it all.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta.track.history import read_rows
from manta.track.wandb_session import FINISH_SECONDS, INIT_SECONDS, RunInfo, Session, find_mode

log = logging.getLogger(__name__)
# Opening, closing, and an offline copy after a failed closing, with room to spare.
LONGEST_FINISH = INIT_SECONDS + FINISH_SECONDS + 40.0


@dataclass(frozen=True)
class WandbStatus:
    """Where the W&B run stands."""

    mode: str
    url: str | None = None
    folder: str | None = None

    @property
    def sync_command(self) -> str | None:
        """What uploads the run later, if anything is left to upload."""
        return f"wandb sync {self.folder}" if self.mode == "offline" and self.folder else None


@dataclass(frozen=True)
class _End:
    summary: Mapping[str, Any]
    exit_code: int


class WandbLog:
    """Rows on their way to W&B."""

    def __init__(self, info: RunInfo, history: Path, rows_before: int) -> None:
        """Start the thread.

        Args:
            info: the run.
            history: the run's `metrics.jsonl`.
            rows_before: its bytes that are not going to come through `log`.
        """
        self._info = info
        self._history = history
        self._rows_before = rows_before
        self._queue: queue.SimpleQueue[Mapping[str, Any] | _End] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.status = WandbStatus("starting")
        # A daemon: a thread that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="manta-wandb", daemon=True)
        self._thread.start()

    def log(self, row: Mapping[str, Any]) -> None:
        """Queue a row; returns at once."""
        if self._thread.is_alive():
            self._queue.put(row)

    def messages(self) -> list[str]:
        """What people should be told; each message is given once."""
        found = []
        while not self._messages.empty():
            found.append(self._messages.get())
        return found

    def finish(
        self, summary: Mapping[str, Any], *, exit_code: int, limit: float = LONGEST_FINISH
    ) -> None:
        """Let the thread send what is queued and close the run, for at most `limit` seconds."""
        self._queue.put(_End(summary, exit_code))
        self._thread.join(limit)
        if self._thread.is_alive():
            self._give_up("it did not finish in time")

    def _work(self) -> None:
        try:
            session = self._open()
            if session is None:
                self.status = WandbStatus("disabled")
                return
            self._replay(session, self._rows_before)
            self._serve(session)
        except Exception as error:
            log.debug("W&B", exc_info=True)
            self._give_up(_first_line(error))

    def _open(self) -> Session | None:
        mode = find_mode(self._info.section)
        if mode == "disabled":
            return None
        if mode == "offline":
            return self._begin(Session(self._info, "offline"))
        try:
            return self._begin(Session(self._info, "online"))
        except Exception as error:
            log.debug("W&B online", exc_info=True)
            return self._go_offline(error)

    def _begin(self, session: Session) -> Session:
        self.status = WandbStatus(session.mode, session.url, str(session.folder))
        return session

    def _go_offline(self, error: Exception) -> Session:
        session = self._begin(Session(self._info, "offline"))
        self._messages.put(
            f"W&B can't be reached ({_first_line(error)}); the run is kept offline. "
            f"Upload it later with: {self.status.sync_command}"
        )
        return session

    def _replay(self, session: Session, end: int | None) -> None:
        """Send the rows on disk that the session lacks."""
        for row in read_rows(self._history, end):
            session.log(row)

    def _serve(self, session: Session) -> None:
        while not isinstance(item := self._queue.get(), _End):
            session.log(item)
        try:
            session.finish(item.summary, item.exit_code)
        except Exception as error:
            if session.mode == "offline":
                raise
            # The connection was lost on the way. A copy with everything in it can be
            # uploaded at any time, whatever part of it the server already has.
            session = self._go_offline(error)
            self._replay(session, None)
            session.finish(item.summary, item.exit_code)
        session.remove_earlier()

    def _give_up(self, why: str) -> None:
        self.status = WandbStatus("failed", self.status.url, self.status.folder)
        self._messages.put(
            f"W&B was given up ({why}); training is not affected and {self._history} has every "
            "row. To send them to W&B, give the same command again."
        )


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".:")
