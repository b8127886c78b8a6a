"""What every side writes down in `sweep.py`: when trials begin and end, their steps, evaluations.

The same few lines in the same kinds of places for all: a trial's own process writes when it begins
and ends, its worker right after each step and evaluation. Light to import, as Ray unpickles
references to it in processes that never train.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

# In the environment of all processes of a row: the folder of its lines.
FOLDER = "SWEEP_LOG"
# A checkpoint is written beside the training of the steps after it: so many are looked at.
HELD_STEPS = 4


class TrialLog:
    """The lines of one trial."""

    def __init__(self, trial: str):
        self._path = Path(os.environ[FOLDER]) / f"{trial}.jsonl"

    def began(self) -> None:
        """The trial's function is called."""
        self._write("began")

    def ended(self) -> None:
        """The trial's function returns."""
        self._write("ended")

    def stepped(self, tokens: int) -> None:
        """A step is done; `tokens` are consumed by now."""
        self._write("step", tokens=tokens)

    def timed(self, evaluate: Callable[..., float]) -> Callable[..., float]:
        """The same evaluation, with a line for each."""

        def noted(*arguments: Any) -> float:
            since = time.time()
            value = evaluate(*arguments)
            self._write("evaluation", seconds=time.time() - since, value=value)
            return value

        return noted

    def _write(self, what: str, **row: Any) -> None:
        line = json.dumps({"time": time.time(), "what": what, **row}) + "\n"
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, line.encode())
        os.close(file)


@dataclass(frozen=True)
class Logged:
    """One trial's lines, read."""

    lines: list[dict[str, Any]]

    def of(self, what: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        return [line for line in self.lines if line["what"] == what]

    @property
    def tokens(self) -> int:
        """Consumed at the end."""
        return max((line["tokens"] for line in self.of("step")), default=0)

    @property
    def value(self) -> float | None:
        """Of its last evaluation."""
        evaluations = self.of("evaluation")
        return evaluations[-1]["value"] if evaluations else None

    @property
    def start(self) -> float | None:
        """Seconds from its call to its first step, evaluations before it taken out."""
        if not self.of("began") or not self.of("step"):
            return None
        began, first = self.of("began")[0]["time"], self.of("step")[0]["time"]
        return first - began - self._evaluating(began, first)

    @property
    def training(self) -> float:
        """Seconds from its first step to its last, with evaluations."""
        steps = self.of("step")
        return steps[-1]["time"] - steps[0]["time"] if steps else 0.0

    def held(self, tokens: int) -> float | None:
        """Seconds that the steps after `tokens` took longer than others of their size.

        None when there are not enough steps of one size after it.
        """
        gaps = self._gaps()
        begun = [index for index, gap in enumerate(gaps) if gap[0] == tokens]
        after = gaps[begun[0] : begun[0] + HELD_STEPS] if begun else []
        if len(after) < HELD_STEPS or len({size for _, size, _ in after}) > 1:
            return None
        by_size = defaultdict(list)
        for _, size, seconds in gaps:
            by_size[size].append(seconds)
        usual = statistics.median(by_size[after[0][1]])
        return sum(seconds - usual for _, _, seconds in after)

    def _gaps(self) -> list[tuple[int, int, float]]:
        """For each step but the first: tokens before it, its tokens, seconds since the last."""
        return [
            (
                before["tokens"],
                step["tokens"] - before["tokens"],
                step["time"] - before["time"] - self._evaluating(before["time"], step["time"]),
            )
            for before, step in pairwise(self.of("step"))
        ]

    def _evaluating(self, since: float, until: float) -> float:
        found = (line for line in self.of("evaluation") if since < line["time"] <= until)
        return sum(line["seconds"] for line in found)


def read(folder: Path) -> dict[str, Logged]:
    """All trials' lines, by trial."""
    return {
        path.stem: Logged([json.loads(line) for line in path.read_text().splitlines()])
        for path in sorted(folder.glob("*.jsonl"))
    }


def turnarounds(trials: dict[str, Logged]) -> list[float]:
    """Seconds from a trial's return to the call of the one that takes its place."""
    begins = sorted(line["time"] for logged in trials.values() for line in logged.of("began"))
    found = []
    for ended in sorted(line["time"] for logged in trials.values() for line in logged.of("ended")):
        later = [began for began in begins if began > ended]
        if later:
            found.append(later[0] - ended)
            begins.remove(later[0])
    return found
