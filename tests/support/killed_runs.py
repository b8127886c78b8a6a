"""Runs that are killed at the moment at which a file gets its name, in copies of one process."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import copied
from whole_runs import train_whole

from manta.config.run import RunConfig
from manta.elastic.checks.preflight import check, check_continues


def dying_at(rename: int, moment: str) -> None:
    """Have this process killed at that rename from now on."""
    left, one_by_one = [rename], threading.Lock()

    def dying(real: Any) -> Any:
        def renaming(*args: Any, **kwargs: Any) -> None:
            with one_by_one:
                left[0] -= 1
                if left[0] == 0 and moment == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                real(*args, **kwargs)
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return renaming

    os.replace, os.rename = dying(os.replace), dying(os.rename)


def train(config: str, rename: str, moment: str) -> None:
    """As `manta train` does, and be killed before or after so many files got their names."""
    dying_at(int(rename), moment)
    checked = check(RunConfig.model_validate_json(config))
    check_continues(checked)
    train_whole(checked)


def killed_at(config: RunConfig, rename: int, moment: str) -> None:
    """Train, or go on, in the current folder until the process is killed there."""
    process = copied.start(train, config.model_dump_json(), str(rename), moment)
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
