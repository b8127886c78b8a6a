"""Jobs on a cluster: show their state and their logs, and stop one."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from queue import Queue
from typing import TYPE_CHECKING, Any

from manta.cluster.client import errors
from manta.config.credentials import without_credentials
from manta.config.errors import RunError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_SECONDS = 0.5
LAST_LINES = 8
# The line of a run's log with its address in W&B.
LINK = re.compile(r"W&B: (https?://\S+)")


class Job:
    """One submitted job."""

    def __init__(self, client: JobSubmissionClient, id: str) -> None:
        """Raises RunError if the cluster has no such job, naming the jobs that it has."""
        self._client = client
        self.id = id
        self._shown = 0  # characters of the log that were printed
        with errors(client.get_address()):
            known = [job.submission_id for job in _submitted(client)]
        if id not in known:
            raise RunError(f"the cluster has no job {id!r}; its jobs: {', '.join(known) or 'none'}")

    def info(self) -> Any:
        """What the cluster knows of the job."""
        with errors(self._client.get_address()):
            return self._client.get_job_info(self.id)

    @property
    def status(self) -> str:
        """PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED."""
        return str(self.info().status.value)

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return bool(self.info().status.is_terminal())

    def log(self) -> str:
        """All that the job has printed."""
        with errors(self._client.get_address()):
            return str(self._client.get_job_logs(self.id))

    def skip_log(self) -> None:
        """Don't print in `follow` what the job has printed so far."""
        self._shown = len(self.log())

    def follow(self) -> str:
        """Print the log as it grows, until the job has ended; returns the job's last status.

        Raises:
            RunError: if the cluster can't be reached any more.
        """
        while True:
            for text in self._pieces():
                print(without_credentials(text), end="", flush=True)
            try:
                if self.is_over:
                    return self.status
            except RunError as error:
                raise RunError(f"{error}; the job {self.id} continues on the cluster") from None
            time.sleep(POLL_SECONDS)

    def _pieces(self) -> Iterator[str]:
        """The log from the last printed character on, until it or the connection ends.

        Read in a thread: in an event loop Ctrl-C becomes a cancellation, which the code that is
        awaited there can swallow.
        """
        pieces: Queue[str | None] = Queue()
        threading.Thread(
            target=lambda: asyncio.run(self._tail(pieces)), name="manta-log", daemon=True
        ).start()
        yield from iter(pieces.get, None)

    async def _tail(self, pieces: Queue[str | None]) -> None:
        read = 0
        try:
            async for text in self._client.tail_job_logs(self.id):
                new = text[max(0, self._shown - read) :]
                read += len(text)
                self._shown = max(self._shown, read)
                pieces.put(new)
        except Exception as error:  # of any library below; `follow` asks again whether it is over
            print(f"(the connection was lost: {type(error).__name__})", file=sys.stderr)
        finally:
            pieces.put(None)

    def stop(self) -> bool:
        """Ask the job to save and end; returns whether it was still running."""
        with errors(self._client.get_address()):
            return bool(self._client.stop_job(self.id))

    def described(self) -> list[str]:
        """Status, command, links and the log's last lines, to print."""
        info, log = self.info(), self.log()
        lines = [
            f"job        {self.id}",
            f"status     {info.status.value}, {_times(info)}",
            f"command    {without_credentials(info.entrypoint)}",
            f"dashboard  {self._client.get_address()}/#/jobs/{self.id}",
        ]
        if links := dict.fromkeys(LINK.findall(log)):
            lines += [f"W&B        {link}" for link in list(links)[-3:]]
        last = [line for line in log.splitlines() if line.strip()][-LAST_LINES:]
        if last:
            lines += ["log        …", *(f"  {without_credentials(line)}" for line in last)]
        elif info.message:
            lines.append(f"message    {without_credentials(info.message)}")
        return lines


def table(client: JobSubmissionClient) -> list[str]:
    """All jobs of the cluster, the newest last."""
    with errors(client.get_address()):
        jobs = sorted(_submitted(client), key=lambda job: job.start_time or 0)
    if not jobs:
        return [f"the cluster at {client.get_address()} has no jobs yet"]
    rows = [("JOB", "STATUS", "SINCE")]
    rows += [(job.submission_id, str(job.status.value), _times(job)) for job in jobs]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{a.ljust(widths[0])}  {b.ljust(widths[1])}  {c}" for a, b, c in rows]


def _submitted(client: JobSubmissionClient) -> list[Any]:
    return [job for job in client.list_jobs() if job.submission_id]


def _times(info: Any) -> str:
    if not info.start_time:
        return "not started"
    began = datetime.fromtimestamp(info.start_time / 1000)
    ended = datetime.fromtimestamp(info.end_time / 1000) if info.end_time else datetime.now()
    seconds = max(0, round((ended - began).total_seconds()))
    took = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"since {began:%Y-%m-%d %H:%M:%S}, {'took' if info.end_time else 'for'} {took}"
