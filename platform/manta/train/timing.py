"""Where the time of a step goes, on each rank, and which rank is slower than the others.

A step is cut at *points*: on a CPU by the host's clock, on an accelerator by events in its
stream, which are read only where the host waits for the device anyway. All times are seconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import astuple, dataclass
from enum import IntEnum
from itertools import pairwise
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
# Steps that a reading looks at: of more since the last one, the last speak for all.
MOST_STEPS = 256
# A rank is slow if forward and backward take it longer than the others by this share and this
# time, in so many readings in a row, over so many steps.
SLOWER, SLOWER_SECONDS = 1.25, 0.005
READINGS_NEEDED, STEPS_NEEDED = 5, 20


class Point(IntEnum):
    """The points of a step, in order; the time up to a point is that of its `PHASES`."""

    WAITS = 0  # for its batch
    HAS_BATCH = 1
    COUNTS = 2  # the valid tokens of all ranks
    COUNTED = 3
    GRADIENT = 4  # the last of this rank's own is computed
    EXCHANGED = 5  # all ranks' gradients are there
    END = 6


PHASES = ("data", "compute", "communication", "compute", "communication", "optimizer")


@dataclass(frozen=True)
class StepTimes:
    """Means over the steps since the last reading, on one rank.

    Attributes:
        data: waiting for the next batch.
        compute: forward and backward, until the last gradient of the rank's own is there.
        communication: waiting for other ranks: for the count of valid tokens, and for what
            of the gradient exchange backward does not hide. A sharded model exchanges
            throughout; its exchange counts as compute.
        optimizer: clipping, guarding and applying.
        rows: number of rows of this rank in a step.
        steps: how many steps.
    """

    data: float = 0.0
    compute: float = 0.0
    communication: float = 0.0
    optimizer: float = 0.0
    rows: float = 0.0
    steps: float = 0.0


class StepClock:
    """Takes the time at the points of each step.

    Args:
        device: the device that runs the steps.
        last: the parameter whose gradient is computed last; None where no exchange of
            gradients follows.
    """

    def __init__(self, device: torch.device, last: nn.Parameter | None):
        self._on_cuda = device.type == "cuda"
        self._marks: list[Any] = [None] * len(Point)
        # Points and rows of each step since the last reading, the last of them; no points where
        # one was passed over. And how many steps there were.
        self._steps: deque[tuple[list[Any] | None, int]] = deque(maxlen=MOST_STEPS)
        self._count = 0
        self._hook: Any = None
        if last is not None:
            self._hook = last.register_post_accumulate_grad_hook(self._gradient_is_there)  # type: ignore[no-untyped-call]

    def end_watch(self) -> None:
        """Watch no gradient any more."""
        if self._hook is not None:
            self._hook.remove()

    def _gradient_is_there(self, _: Tensor) -> None:
        self.mark(Point.GRADIENT)  # of each micro-step; the last one counts

    def mark(self, point: Point) -> None:
        """The step has come to `point`."""
        if self._on_cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks[point] = event
        else:
            self._marks[point] = time.perf_counter()

    def waited(self, batches: Iterable[T]) -> Generator[T, None, None]:
        """The same batches, with the time taken before and after each."""
        found = iter(batches)
        while True:
            self.mark(Point.WAITS)
            try:
                batch = next(found)
            except StopIteration:
                return
            self.mark(Point.HAS_BATCH)
            yield batch

    def end(self, rows: int) -> None:
        """The step is over; it had `rows` rows on this rank."""
        self.mark(Point.END)
        marks, self._marks = self._marks, [None] * len(Point)
        marks[Point.GRADIENT] = marks[Point.GRADIENT] or marks[Point.EXCHANGED]
        whole = all(mark is not None for mark in marks)
        self._steps.append((marks if whole else None, rows))
        self._count += 1

    def read(self, *, besides_last: bool = False) -> StepTimes:
        """The times since the last reading. Waits for the device.

        Args:
            besides_last: leave the last step to the next reading, and don't wait for it.
        """
        kept = [self._steps.pop()] if besides_last and self._steps else []
        steps = [(marks, rows) for marks, rows in self._steps if marks is not None]
        count = self._count - len(kept)
        self._steps = deque(kept, maxlen=MOST_STEPS)
        self._count = len(kept)
        if not steps:
            return StepTimes(steps=count)
        if self._on_cuda:
            steps[-1][0][Point.END].synchronize()
        sums = dict.fromkeys(PHASES, 0.0)
        for marks, _ in steps:
            for phase, (begin, end) in zip(PHASES, pairwise(marks), strict=True):
                sums[phase] += begin.elapsed_time(end) / 1e3 if self._on_cuda else end - begin
        means = {phase: total / len(steps) for phase, total in sums.items()}
        return StepTimes(**means, rows=sum(rows for _, rows in steps) / len(steps), steps=count)


def last_gradient(lm: nn.Module) -> nn.Parameter | None:
    """The parameter whose gradient is computed last: the one that is used first."""
    embedding = getattr(lm, "get_input_embeddings", lambda: None)()
    candidates = [*(embedding.parameters() if embedding else ()), *lm.parameters()]
    return next((parameter for parameter in candidates if parameter.requires_grad), None)


def as_numbers(times: StepTimes) -> list[float]:
    """Times for sending; `StepTimes(*numbers)` is the way back."""
    return list(astuple(times))


def as_row(ranks: Sequence[StepTimes]) -> dict[str, float]:
    """What a metrics row says: seconds a step, the mean over ranks, so that they add up.

    Nothing, if no step was timed.
    """
    if not any(times.steps for times in ranks):
        return {}
    return {
        f"time_{phase}": sum(getattr(times, phase) for times in ranks) / len(ranks)
        for phase in ("data", "compute", "communication", "optimizer")
    }


class Stragglers:
    """Notices ranks that compute more slowly than the others, and names each once."""

    def __init__(self, nodes: Sequence[str]):
        """`nodes` has the name of each rank's node."""
        self._nodes = nodes
        self._streaks = [(0, 0.0)] * len(nodes)  # readings, steps
        self._named: set[int] = set()

    def observe(self, ranks: Sequence[StepTimes]) -> list[str]:
        """Take in the times of all ranks; returns what people should be told."""
        found = []
        for rank, times in enumerate(ranks):
            typical = _typical([other for r, other in enumerate(ranks) if r != rank])
            slow = typical is not None and _is_slower(times, *typical)
            readings, steps = self._streaks[rank] if slow else (0, 0.0)
            self._streaks[rank] = (readings + slow, steps + slow * times.steps)
            if slow and typical and self._is_due(rank):
                self._named.add(rank)
                found.append(self._message(rank, times, typical[0]))
        return found

    def _is_due(self, rank: int) -> bool:
        readings, steps = self._streaks[rank]
        return readings >= READINGS_NEEDED and steps >= STEPS_NEEDED and rank not in self._named

    def _message(self, rank: int, times: StepTimes, typical: float) -> str:
        return (
            f"rank {rank} on node {self._nodes[rank]} is slow: forward and backward take it "
            f"{times.compute * 1e3:.0f} ms a step, the others {typical * 1e3:.0f} ms, and all wait "
            f"for it (the last {self._streaks[rank][1]:.0f} steps); look for other processes, heat "
            "or a slower device there"
        )


def _typical(others: Sequence[StepTimes]) -> tuple[float, float] | None:
    """Median compute time of ranks that have rows: of a step, and of a row."""
    working = [times for times in others if times.rows]
    if not working:
        return None
    return (
        median(times.compute for times in working),
        median(times.compute / times.rows for times in working),
    )


def _is_slower(times: StepTimes, step: float, row: float) -> bool:
    """Slower by the step *and* by the row.

    A rank with more rows may take longer; one with fewer takes longer for each of them,
    where a step has a cost of its own.
    """
    if not times.rows:
        return False
    by_step = times.compute > SLOWER * step and times.compute - step > SLOWER_SECONDS
    return by_step and times.compute / times.rows > SLOWER * row
