"""Kills runs that train in processes of their own, at the moment at which a file gets its name.

    python tests/support/killed_runs.py CONFIGS MOMENTS

`CONFIGS` is a JSON list of runs' configs; `MOMENTS` has a list of pairs for each: the number of
renames after which its process is killed with SIGKILL, and whether before or after the last of
them. One process is started for each pair, one after the other, and goes on where the one before
it was killed. Torch is imported once: the processes are forks of one that has computed nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

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


def train(config: RunConfig) -> None:
    """As `manta train` does."""
    checked = check(config)
    check_continues(checked)
    train_whole(checked)


def main() -> None:
    """Train and be killed, over and over; prints how each process ended."""
    for config, moments in zip(json.loads(sys.argv[1]), json.loads(sys.argv[2]), strict=True):
        for rename, moment in moments:
            child = os.fork()
            if not child:
                dying_at(rename, moment)
                train(RunConfig.model_validate(config))
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
