"""What every system writes down in `recovery.py`: who trains where, and each step as it is done.

The same few lines in the same kind of place for all: in a worker, right after a step. Light to
import, as Ray unpickles references to it in processes that never train.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKERS, STEPS = "workers.jsonl", "steps.jsonl"


class StepLog:
    """One worker's lines; only the first rank's steps are kept.

    Args:
        folder: of the case.
        rank: of this worker.
        node: its node, if it is on one of Ray's.
    """

    def __init__(self, folder: Path, rank: int, node: str = ""):
        self._folder, self._rank = folder, rank
        # A process may be in several groups, one after the other.
        self._group = f"{os.getpid()} since {time.time()}"
        _append(folder / WORKERS, {"rank": rank, "pid": os.getpid(), "node": node})

    def stepped(self, step: int) -> None:
        """Step number `step` is done."""
        if self._rank == 0:
            _append(self._folder / STEPS, {"step": step, "group": self._group})


@dataclass(frozen=True)
class Logged:
    """What the lines say so far. A group is known by its first rank's process and beginning."""

    workers: list[dict[str, Any]]
    steps: list[dict[str, Any]]

    @property
    def group(self) -> str:
        """The newest group that trains; empty before the first step."""
        return self.steps[-1]["group"] if self.steps else ""

    @property
    def last(self) -> int:
        """The newest step; 0 before the first."""
        return self.steps[-1]["step"] if self.steps else 0

    def newest(self, rank: int) -> dict[str, Any]:
        """The newest worker with that rank."""
        return next(worker for worker in reversed(self.workers) if worker["rank"] == rank)


def read(folder: Path) -> Logged:
    """All lines until now."""
    return Logged(_lines(folder / WORKERS), _lines(folder / STEPS))


def _append(path: Path, row: dict[str, Any]) -> None:
    line = json.dumps({"time": time.time(), **row}) + "\n"
    # Opened each time: a few µs, and nothing to share between processes and threads.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]
