"""The W&B client's process: follows `metrics.jsonl` and sends its rows to W&B.

So the driver never waits for W&B, can't hang when it exits, and sends no second copy of a
row. When a driver is killed, EOF on the pipe tells this process, which then sends what is
on the disk and ends.

Standard input: a line with the `RunInfo`, and at the end a line with an `End`.
Standard output: `Report`s.
"""

from __future__ import annotations

import fcntl
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from pydantic import BaseModel

from manta.config.errors import RunError
from manta.config.metrics import LOSS, VAL_LOSS
from manta.config.mistakes import in_a_line
from manta.record.history import Tail
from manta.record.run_state import Event, read_state_if_any, sync_command
from manta.show.wandb.alert_tail import AlertTail
from manta.show.wandb.wandb_run import RunInfo, Session, find_mode
from manta.storage.run_folder import METRICS

LOCK = ".wandb.lock"
LOCK_SECONDS = 60.0
POLL_SECONDS = 1.0


class End(BaseModel):
    """The driver's message that the run ended."""

    summary: dict[str, Any]
    exit_code: int


class Report(BaseModel):
    """A message to the driver: the W&B run's state, and what people should be told.

    `page` is the address of a W&B page that was made beside the run; `last` marks the last
    message.
    """

    mode: str
    url: str | None = None
    folder: str | None = None
    message: str | None = None
    page: str | None = None
    last: bool = False


class Source(Protocol):
    """What fills a W&B run."""

    page: str | None

    def send(self, session: Session) -> None:
        """Send what is new since the last call."""


class Rows:
    """Sends the rows of a `metrics.jsonl`, from the first on, and alerts of the record."""

    page: str | None = None

    def __init__(self, info: RunInfo) -> None:
        """Start before the first row."""
        self._tail = Tail(info.run_dir / METRICS)
        self._log = RunLog(info.run_dir) if info.section.console else None
        self._alerts = None if info.alerts is None else AlertTail(info.run_dir, info.alerts)

    def send(self, session: Session) -> None:
        """Send the rows and alerts that came since the last call."""
        row = None
        for row in self._tail.rows():
            session.log(row)
        if self._log is not None:
            for line in self._log.lines(row):
                session.say(line)
        if self._alerts is not None:
            for alert in self._alerts.new():
                session.alert(alert)


class RunLog:
    """A run's log as lines: its progress, and the events of its record."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._told: Event | None = None

    def lines(self, row: Mapping[str, Any] | None) -> list[str]:
        """The new lines since the last call; `row` is the newest new row, if there is one."""
        found = []
        if row is not None:
            values = [f"{key} {row[key]:.4f}" for key in (LOSS, VAL_LOSS) if row.get(key)]
            found.append(" ".join([f"step {row['step']:,}, {row['tokens']:,} tokens", *values]))
        with suppress(RunError):  # run.json is being replaced; the next call reads it
            state = read_state_if_any(self._run_dir)
            events = state.events if state else []
            first = events.index(self._told) + 1 if self._told in events else 0
            found += [f"{one.time} step {one.step:,}: {one.message}" for one in events[first:]]
            self._told = events[-1] if events else None
        return found


# The end that is assumed for a driver that was killed.
LOST = End(summary={"status": "interrupted", "reason": "the driver was killed"}, exit_code=1)


class RunMirror:
    """Keeps one W&B run up to date with a source.

    Args:
        info: facts with which the W&B run is opened.
        answers: stream for messages to the driver, one JSON document a line.
        source: makes a new source; an offline copy starts again from the first row.
    """

    def __init__(self, info: RunInfo, answers: TextIO, source: Callable[[], Source]) -> None:
        self._info, self._answers, self._source = info, answers, source
        self._said = Report(mode="starting")

    def run(self, ends: queue.SimpleQueue[End]) -> None:
        """Open the W&B run, follow the source until `ends` has an `End`, close the run."""
        mode = find_mode(self._info.section)
        if mode == "disabled":
            self.say(Report(mode="disabled", last=True))
            return
        _wait_for_predecessor(self._info.run_dir)
        session = self._open_offline() if mode == "offline" else self._open_online()
        source = self._source()
        while (end := _heard(ends)) is None:
            source.send(session)
        try:
            source.send(session)
            session.finish(end.summary, end.exit_code)
        except Exception as error:
            if session.mode == "offline":
                raise
            # The connection was lost. A complete offline copy can be uploaded at any time,
            # whatever part of it the server has already.
            session = self._open_offline(error)
            source = self._source()
            source.send(session)
            session.finish(end.summary, end.exit_code)
        session.remove_earlier()
        self.say(self._said.model_copy(update={"message": None, "page": source.page, "last": True}))

    def _open_online(self) -> Session:
        try:
            session = Session(self._info, "online")
        except Exception as error:
            return self._open_offline(error)
        self.say(Report(mode="online", url=session.url, folder=str(session.folder)))
        return session

    def _open_offline(self, why: Exception | None = None) -> Session:
        if why is not None:
            import wandb

            # The client would refuse the id as in use; teardown makes it forget the old run.
            wandb.teardown()
        session = Session(self._info, "offline")
        message = None
        if why is not None:
            message = (
                f"W&B can't be reached ({_first_line(why)}); the run is kept offline. "
                f"Upload it later with: {sync_command(str(session.folder))}"
            )
        self.say(Report(mode="offline", folder=str(session.folder), message=message))
        return session

    def say(self, report: Report) -> None:
        """Send a report to the driver."""
        self._said = report
        # The pipe is broken if the driver was killed.
        with suppress(OSError):
            print(report.model_dump_json(), file=self._answers, flush=True)


def _heard(ends: queue.SimpleQueue[End]) -> End | None:
    """Wait for the driver's `End` until the file should be read again; None if there is none."""
    try:
        return ends.get(timeout=POLL_SECONDS)
    except queue.Empty:
        return None


def _listen(words: TextIO, ends: queue.SimpleQueue[End]) -> None:
    line = words.readline()
    ends.put(End.model_validate_json(line) if line else LOST)


def _wait_for_predecessor(run_dir: Path) -> None:
    """Wait until a killed driver's process has finished: two clients would send rows twice."""
    file = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        try:
            # The lock is held until this process ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:
            return


def _first_line(error: BaseException) -> str:
    text = in_a_line(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".:")


def main() -> None:
    """Serve a run's driver over standard input and output."""
    serve(Rows)


def serve(source: Callable[[RunInfo], Source]) -> None:
    """Read a `RunInfo` from standard input, and keep that W&B run up to date to its end."""
    answers = sys.stdout
    # Redirect prints of libraries away from the pipe of reports. Use a duplicate of stderr: W&B
    # wraps both streams and would show each line twice if they were one object.
    sys.stdout = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)
    info = RunInfo.model_validate_json(sys.stdin.readline())
    ends: queue.SimpleQueue[End] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, ends), daemon=True).start()
    follower = RunMirror(info, answers, lambda: source(info))
    try:
        follower.run(ends)
    except Exception as error:
        why = f"W&B was given up ({_first_line(error)})"
        follower.say(Report(mode="failed", message=why, last=True))
        raise
