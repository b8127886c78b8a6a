"""The driver's side of W&B: starts the client's process, reads its reports, ends it in time.

Nothing here waits for W&B while a run trains. The client reads the rows from the disk by
itself; the driver only tells it when the run has ended, and then waits for a limited time.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import manta
from manta.config import ConfigError
from manta.config.run import WandbSection
from manta.show.wandb.upload_process import LOCK_SECONDS, End, Report
from manta.show.wandb.wandb_run import FINISH_SECONDS, INIT_SECONDS, RunInfo

# Seconds to open (after a predecessor), to close, and to make an offline copy if closing fails.
LONGEST_FINISH = LOCK_SECONDS + INIT_SECONDS + FINISH_SECONDS + 40.0
KILLED_SECONDS = 5.0
CLIENT_LOG = "wandb-client.log"
# Stopping a Ray job sends SIGTERM to its driver and all its descendants, but the client is still
# needed then. So a shell starts the client and exits, which makes the client an orphan.
ORPHAN = ("sh", "-c", 'exec 3<&0; "$@" <&3 3<&- &', "sh")
START = "from manta.show.wandb.upload_process import main; main()"
REMEDY = (
    "training is not affected. Every row is in {folder}/metrics.jsonl; give the same command "
    "again to send them to W&B."
)
CHECK = "from manta.show.wandb.wandb_run import check; check()"
# Values of WANDB_MODE that W&B's client accepts.
MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")
CHECK_SECONDS = 60.0


def check_environment(section: WandbSection) -> None:
    """Refuse a WANDB_MODE in the environment that W&B's client does not accept.

    Raises:
        ConfigError: naming the accepted values.
    """
    mode = os.environ.get("WANDB_MODE")
    if section.mode != "disabled" and mode and mode not in MODES:
        raise ConfigError(
            f"WANDB_MODE = '{mode}' in the environment: W&B knows {', '.join(MODES)}; change it, "
            "unset it, or set wandb.mode=disabled"
        )


def check_wandb(section: WandbSection) -> None:
    """Refuse `wandb.mode: online` if there is no API key.

    Checks in a separate process, because W&B's client leaves a service and variables behind.

    Raises:
        ConfigError: naming the remedy.
    """
    check_environment(section)
    if section.mode != "online":
        return
    try:
        result = subprocess.run(
            [sys.executable, "-P", "-c", CHECK],
            input=section.model_dump_json(),
            capture_output=True,
            text=True,
            env=_environment(),
            timeout=CHECK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return  # The check itself failed: the run will tell if W&B can't be reached.
    if result.returncode == 1:
        raise ConfigError(result.stderr.strip())


class WandbLog:
    """A W&B client in a separate process.

    Args:
        info: facts with which the W&B run is opened.
        start: Python code for the process: it calls `upload_process.main` or its `serve`.
        remedy: text added to the message that W&B was given up.
    """

    def __init__(self, info: RunInfo, start: str = START, remedy: str = REMEDY) -> None:
        self._run_dir = info.run_dir
        self._start_with, self._remedy = start, remedy
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._over = threading.Event()
        self.status = Report(mode="disabled")
        if info.section.mode != "disabled":
            self.status = Report(mode="starting")
            self._start(info)

    def _start(self, info: RunInfo) -> None:
        try:
            with (self._run_dir / CLIENT_LOG).open("w") as log:
                self._process = subprocess.Popen(
                    [*ORPHAN, sys.executable, "-P", "-c", self._start_with],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=_environment(),
                    # Ctrl-C should reach only the driver, which then sends how the run ended.
                    start_new_session=True,
                )
        except OSError as error:
            self._give_up(f"its client can't be started: {error}")
            return
        self._process.wait()  # waits for the shell, whose pid remains the client's process group id
        self._say(info.model_dump_json(by_alias=True))
        self._listener = threading.Thread(target=self._listen, name="manta-wandb", daemon=True)
        self._listener.start()

    def messages(self) -> list[str]:
        """New messages for people; each is returned once."""
        found = []
        while not self._messages.empty():
            found.append(self._messages.get())
        return found

    def finish(
        self, summary: Mapping[str, Any], *, exit_code: int, limit: float = LONGEST_FINISH
    ) -> None:
        """Wait at most `limit` seconds for the client to send the rest and close the run.

        A second Ctrl-C ends the wait. Harmless when called again.
        """
        process = self._process
        if process is None:
            return
        self._say(End(summary=dict(summary), exit_code=exit_code).model_dump_json(fallback=str))
        try:
            if not self._over.wait(limit):
                self._kill(process, f"it did not finish within {limit:g} s")
        except KeyboardInterrupt:
            self._kill(process, "interrupted")
        if process.stdin:
            with contextlib.suppress(OSError):
                process.stdin.close()
        self._process = None

    def _say(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        # The pipe breaks if the client has died, which `finish` notices.
        with contextlib.suppress(OSError):
            print(line, file=self._process.stdin, flush=True)

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            report = Report.model_validate_json(line)
            self.status = report
            if report.message:
                self._messages.put(self._with_remedy(report))
            if report.last:
                break
        else:
            if self.status.mode != "failed":
                self._give_up("its client ended")
        self._over.set()

    def _kill(self, process: subprocess.Popen[str], why: str) -> None:
        self._give_up(why)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        self._over.wait(KILLED_SECONDS)

    def _give_up(self, why: str) -> None:
        self.status = Report(mode="failed", url=self.status.url, folder=self.status.folder)
        report = self.status.model_copy(update={"message": f"W&B was given up ({why})"})
        self._messages.put(self._with_remedy(report))

    def _with_remedy(self, report: Report) -> str:
        if report.mode != "failed":
            return report.message or ""
        return f"{report.message}; {self._remedy.format(folder=self._run_dir)}"


def _environment() -> dict[str, str]:
    """This process's environment, with this package importable even if it isn't installed."""
    root = str(Path(manta.__file__).parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    # Drop WANDB_SERVICE: the client must not share the service of this process's own W&B runs.
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return {**inherited, "PYTHONPATH": os.pathsep.join(paths)}
