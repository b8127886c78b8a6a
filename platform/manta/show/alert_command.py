"""Tells a command of the user's of alerts, beside what goes on; its failures are only told.

The command gets the alert as one JSON object on its standard input, and each value of it in a
variable ``MANTA_ALERT_NAME``. No shell reads either, so that a message can't be taken for a
command.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from manta.config.alerts import AlertCommandSection
from manta.config.mistakes import in_a_line

# Most characters that are shown of what a command printed before it failed.
SHOWN = 300
# Seconds beyond the command's own limit that the end of a run waits for it.
GRACE_SECONDS = 5.0


class AlertCommand:
    """Runs the command of a config for one alert after the other, in a thread.

    Args:
        section: the config; without a command nothing is done.
    """

    def __init__(self, section: AlertCommandSection):
        self._words, self._timeout = section.command, section.timeout
        self._waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._problems: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def send(self, alert: Mapping[str, Any]) -> None:
        """Have the command run for an alert. Returns at once."""
        if not self._words:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="manta-alerts", daemon=True)
            self._thread.start()
        self._waiting.put(dict(alert))

    def problems(self) -> list[str]:
        """New failures of the command, in words; each is returned once."""
        found = []
        while not self._problems.empty():
            found.append(self._problems.get())
        return found

    def finish(self) -> list[str]:
        """Wait for commands that run, for a limited time; returns the failures not told yet."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join(2 * self._timeout + GRACE_SECONDS)
            if thread.is_alive():
                self._problems.put("alerts.command takes too long: not all alerts were sent")
        return self.problems()

    def _work(self) -> None:
        while (alert := self._waiting.get()) is not None:
            problem = run_command(self._words, alert, self._timeout)
            if problem is not None:
                self._problems.put(
                    f"alerts.command: {self._words[0]} {problem}; the alert was: {alert['message']}"
                )


def run_command(words: Sequence[str], alert: Mapping[str, Any], timeout: float) -> str | None:
    """Run a command for an alert, to its end.

    Args:
        words: the command and its arguments.
        alert: values of the alert, by name.
        timeout: seconds after which the command, and what it started, is ended.

    Returns:
        Why it failed, in words; None if it didn't.
    """
    values = {f"MANTA_ALERT_{name.upper()}": str(value) for name, value in alert.items()}
    # A file instead of a pipe: a process that the command leaves behind may keep it open.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **values},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"can't be started: {in_a_line(error)}"
        try:
            process.communicate(json.dumps(alert).encode() + b"\n", timeout)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"took longer than {timeout:g} s (alerts.timeout) and was ended"
        if process.returncode == 0:
            return None
        output.seek(0)
        said = " ".join(output.read().decode(errors="replace").split())[-SHOWN:]
        return f"failed ({process.returncode})" + (f": {said}" if said else "")
