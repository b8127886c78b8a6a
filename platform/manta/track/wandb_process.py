"""The W&B client's own process: it follows `metrics.jsonl` and shows it to W&B.

The driver has nothing to wait for, nothing that hangs when it exits, and no second copy
of a row to get wrong. A driver that is killed closes the pipe; this process then sends
what is on the disk and ends.

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
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from pydantic import BaseModel

from manta.track.history import METRICS, Tail
from manta.track.wandb_session import RunInfo, Session, find_mode

LOCK = ".wandb.lock"
LOCK_SECONDS = 60.0
POLL_SECONDS = 1.0


class End(BaseModel):
    """The last word of the driver."""

    summary: dict[str, Any]
    exit_code: int


class Report(BaseModel):
    """Where the W&B run stands, and what people should be told about it."""

    mode: str
    url: str | None = None
    folder: str | None = None
    message: str | None = None


# What is said on behalf of a driver that was killed.
LOST = End(summary={"status": "interrupted", "reason": "the driver was killed"}, exit_code=1)


class Follower:
    """Keeps one W&B run up with one `metrics.jsonl`."""

    def __init__(self, info: RunInfo, answers: TextIO) -> None:
        """Answers go to `answers`, one JSON document a line."""
        self._info = info
        self._answers = answers

    def run(self, ends: queue.SimpleQueue[End]) -> None:
        """Open the W&B run, follow the file until there is an end in `ends`, close it."""
        mode = find_mode(self._info.section)
        if mode == "disabled":
            self.say(Report(mode="disabled"))
            return
        _wait_for_predecessor(self._info.run_dir)
        session = self._open_offline() if mode == "offline" else self._open_online()
        tail = self._tail()
        while (end := _heard(ends)) is None:
            self._send(session, tail)
        self._send(session, tail)
        try:
            session.finish(end.summary, end.exit_code)
        except Exception as error:
            if session.mode == "offline":
                raise
            # The connection was lost on the way. A copy with everything in it can be
            # uploaded at any time, whatever part of it the server already has.
            session = self._open_offline(error)
            self._send(session, self._tail())
            session.finish(end.summary, end.exit_code)
        session.remove_earlier()

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

            # The client would refuse the id as in use: only a new one forgets the old run.
            wandb.teardown()
        session = Session(self._info, "offline")
        message = None
        if why is not None:
            message = (
                f"W&B can't be reached ({_first_line(why)}); the run is kept offline. "
                f"Upload it later with: wandb sync {session.folder}"
            )
        self.say(Report(mode="offline", folder=str(session.folder), message=message))
        return session

    def _tail(self) -> Tail:
        return Tail(self._info.run_dir / METRICS)

    def _send(self, session: Session, tail: Tail) -> None:
        for row in tail.rows():
            session.log(row)

    def say(self, report: Report) -> None:
        """Tell the driver."""
        # A driver that was killed doesn't hear it.
        with suppress(OSError):
            print(report.model_dump_json(), file=self._answers, flush=True)


def _heard(ends: queue.SimpleQueue[End]) -> End | None:
    """The driver's last word, if it comes before the file should be looked at again."""
    try:
        return ends.get(timeout=POLL_SECONDS)
    except queue.Empty:
        return None


def _listen(words: TextIO, ends: queue.SimpleQueue[End]) -> None:
    line = words.readline()
    ends.put(End.model_validate_json(line) if line else LOST)


def _wait_for_predecessor(run_dir: Path) -> None:
    """Let the process of a killed driver finish: two clients would log the same rows."""
    file = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        try:
            # Held until this process ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:
            return


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".:")


def main() -> None:
    """Serve the driver at the other end of the pipes."""
    answers = sys.stdout
    # Whatever a library prints must not be taken for an answer.
    sys.stdout = sys.stderr
    info = RunInfo.model_validate_json(sys.stdin.readline())
    ends: queue.SimpleQueue[End] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, ends), daemon=True).start()
    follower = Follower(info, answers)
    try:
        follower.run(ends)
    except Exception as error:
        follower.say(Report(mode="failed", message=f"W&B was given up ({_first_line(error)})"))
        raise
