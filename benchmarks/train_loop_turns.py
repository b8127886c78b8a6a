"""Loops side by side, each for a few seconds in turn while all the others are stopped.

A machine's speed drifts by a tenth and more within minutes, on shared hardware above all: loops
that run one after the other can't be told apart to a percent. In turns of seconds it drifts for
all of them alike. What belongs to a loop, launchers and Ray's processes with it, is stopped and
continued as one.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

START_SECONDS, END_SECONDS = 600.0, 30.0
# After a long stop processes have timers to make up for, and Manta starts its spare worker.
UNCOUNTED = 8  # turns


class Contender:
    """A loop that trains without end, in processes of its own.

    Args:
        command: to start it with.
        environment: of its process.
        folder: to start it in.
        progress: where it leaves a line of JSON with "step", and maybe "loss", now and then.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, progress: Path
    ):
        self._progress, self._log = progress, progress.parent / "log"
        progress.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log
            )
        self._root = psutil.Process(self._process.pid)

    @property
    def pid(self) -> int:
        """Process id of the loop, or of its launcher."""
        return self._process.pid

    def rows(self) -> list[dict[str, Any]]:
        """What it has told so far."""
        try:
            text = self._progress.read_text()
        except FileNotFoundError:
            return []
        lines = text.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    @property
    def step(self) -> int:
        """The last step that it has told of."""
        return max((row["step"] for row in self.rows()), default=0)

    def warm_up(self, steps: int) -> None:
        """Let it start and train so many steps, and stop it.

        Raises:
            RuntimeError: with the end of what it said, if it ends instead or takes too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while self.step < steps:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it does not train:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.1)
        self._signal(signal.SIGSTOP)

    def run(self, seconds: float) -> float:
        """Let it go on for so long; returns how long it was, stopping and all."""
        began = time.monotonic()
        self._signal(signal.SIGCONT)
        time.sleep(seconds)
        self._signal(signal.SIGSTOP)
        return time.monotonic() - began

    def end(self) -> None:
        """End it as Ctrl-C does, and by force if that is not enough."""
        processes = self._processes()
        self._signal(signal.SIGCONT)
        self._process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def _processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [self._root, *self._root.children(recursive=True)]
        return []

    def _signal(self, number: int) -> None:
        """To all, until there is none that has not got it: processes start others meanwhile."""
        told: set[psutil.Process] = set()
        while new := set(self._processes()) - told:
            for process in new:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            told |= new


def take_turns(
    contenders: Mapping[str, Contender], turns: int, seconds: float, parts: int
) -> dict[str, list[float]]:
    """Steps a second of each, in each of `parts` of the turns.

    Args:
        contenders: all of them warm and stopped.
        turns: of each, a multiple of `parts`.
        seconds: of a turn.
        parts: into which the turns are cut, to see a spread.
    """
    for _ in range(UNCOUNTED):
        for contender in contenders.values():
            contender.run(seconds)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(parts):
        before = {name: contender.step for name, contender in contenders.items()}
        spent = dict.fromkeys(contenders, 0.0)
        for turn in range(turns // parts):
            for name in contenders if turn % 2 == 0 else reversed(list(contenders)):
                spent[name] += contenders[name].run(seconds)
        for name, contender in contenders.items():
            rates[name].append((contender.step - before[name]) / spent[name])
    return rates
