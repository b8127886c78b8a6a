"""How workers tell the driver what happens: one small actor on the driver's node.

Ray Train's own `report` is a barrier among workers and is read once a poll; messages
here cost a worker nothing and survive its death.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ray.actor import ActorHandle

from manta.config.errors import ErrorReport, TrainingError
from manta.elastic.messages.driver_actor import beside_driver
from manta.elastic.messages.events import Busy, Event

# A group that fails this often without new progress would fail for ever.
FUTILE_ATTEMPTS = 3
# The least of an evaluation that is worth telling.
NEWS = 0.01


@dataclass(frozen=True)
class GroupProgress:
    """How the newest group is getting on.

    Attributes:
        attempt: its number.
        steps: it has trained.
        tokens: of the run, consumed.
        first_step: when its first step was done, seconds since the epoch; 0 without one.
        seconds: since then.
        silent: seconds since its last sign of life.
        doing: what it does between two steps, such as evaluating; empty while it trains.
        begins: whether nothing can be seen yet of what it does now: it loads, compiles, saves.
        step_seconds: of a usual step; 0 while unknown.
        rate: tokens a second over the last steps; 0 while unknown.
    """

    attempt: int
    steps: int
    tokens: int
    first_step: float
    seconds: float
    silent: float
    doing: str
    begins: bool
    step_seconds: float
    rate: float


class Mailbox:
    """Events in the order in which they were put, and the count of attempts.

    An *attempt* is one worker group from start to end.

    Args:
        attempts: how many there were before.
        clock: seconds since the epoch.
    """

    def __init__(self, attempts: int, clock: Callable[[], float] = time.time):
        self._clock = clock
        self._events: list[Event] = []
        self._rows_waiting: list[int] = []
        self._rows_taken: deque[int] = deque()
        self._rows_recorded: Counter[int] = Counter()
        self._attempts = attempts
        self._futile = 0
        self._failure: ErrorReport | None = None
        self._micro_batch: int | None = None
        self._furthest = 0
        self._begin_watch()

    def _begin_watch(self) -> None:
        self._sign_of_life = self._clock()
        self._first_step = 0.0
        self._steps = 0
        self._doing, self._shown, self._begins = "", 0.0, True
        # (when, steps done, tokens consumed) of the last signs of life.
        self._signs: deque[tuple[float, int, int]] = deque(maxlen=20)

    def put(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)

    def put_rows(self, attempt: int, rows: int, event: Event) -> None:
        """Add an event that holds `rows` rows of metrics of an attempt."""
        self._rows_waiting.extend([attempt] * rows)
        self.put(event)

    def take(self, recorded: int) -> list[Event]:
        """All events since the last call.

        Args:
            recorded: how many of all rows taken before are kept for good.
        """
        for _ in range(recorded - self._rows_recorded.total()):
            self._rows_recorded[self._rows_taken.popleft()] += 1
        self._rows_taken += self._rows_waiting
        self._rows_waiting = []
        taken, self._events = self._events, []
        return taken

    def recorded(self, attempt: int) -> int:
        """How many rows of metrics of an attempt are kept for good, where the run is."""
        return self._rows_recorded[attempt]

    def begin_attempt(self) -> tuple[int, int | None]:
        """The number of the attempt that starts now, and the micro-batch found to fit."""
        self._attempts += 1
        self._futile += 1
        if self._futile > FUTILE_ATTEMPTS:
            died = f"the workers died {FUTILE_ATTEMPTS} times in a row without a step forward"
            self.fail(ErrorReport.of(TrainingError(died)))
        self._begin_watch()
        return self._attempts, self._micro_batch

    def limit_micro_batch(self, rows: int) -> bool:
        """Say how many rows in a forward pass the next attempts may use at most; is it news?"""
        if self._micro_batch is not None and self._micro_batch <= rows:
            return False
        self._micro_batch = rows
        self._futile = 0  # each halving is a step forward, and they end at one
        return True

    def stepped(self, attempt: int, steps: int, tokens: int) -> None:
        """A sign of life: an attempt has done so many steps, the run consumed so many tokens."""
        if attempt != self._attempts:
            return
        now = self._clock()
        self._show("", 1.0)
        self._first_step = self._first_step or now
        self._sign_of_life, self._steps = now, steps
        self._signs.append((now, steps, tokens))
        if tokens > self._furthest:
            self._furthest, self._futile = tokens, 0

    def busy(self, attempt: int, doing: str, share: float) -> None:
        """A sign of life of an attempt that does something else than a step.

        Args:
            attempt: which.
            doing: what it does, such as evaluating.
            share: of it that is done; 0 as long as nothing can be seen of it.
        """
        if attempt == self._attempts:
            self._sign_of_life = self._clock()
            self._show(doing, share)

    def _show(self, doing: str, share: float) -> None:
        """Let the driver know of it, if that is news: of several ranks, the furthest is shown."""
        if doing != self._doing or share - self._shown >= NEWS:
            self.put(Busy(doing, share))
            self._shown = share
        self._doing, self._begins = doing, share == 0

    def progress(self) -> GroupProgress:
        """How the newest attempt is getting on."""
        now = self._clock()
        pairs = list(zip(self._signs, list(self._signs)[1:], strict=False))
        times = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairs if b[1] > a[1]]
        tokens = self._signs[-1][2] if self._signs else 0
        span = self._signs[-1][0] - self._signs[0][0] if pairs else 0.0
        return GroupProgress(
            attempt=self._attempts,
            steps=self._steps,
            tokens=tokens,
            first_step=self._first_step,
            seconds=now - self._first_step if self._first_step else 0.0,
            silent=now - self._sign_of_life,
            doing=self._doing,
            begins=self._begins,
            step_seconds=statistics.median(times) if times else 0.0,
            rate=(tokens - self._signs[0][2]) / span if span else 0.0,
        )

    def fail(self, problem: ErrorReport) -> None:
        """Say that trying again is of no use, and why. The first problem counts."""
        if self._failure is None:
            self._failure = problem

    def failure(self) -> ErrorReport | None:
        """Why trying again is of no use, if it is."""
        return self._failure


def open_mailbox(attempts: int) -> AbstractContextManager[ActorHandle]:
    """A mailbox for the time of a block.

    Args:
        attempts: how many there were before, in earlier drivers of the run.
    """
    return beside_driver(Mailbox, attempts)
