"""The mailbox: a small actor on the driver's node for messages from workers to the driver.

Ray Train's own `report` is a barrier among workers and is read once a poll. Messages here
don't make a worker wait, and survive its death.
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

# After this many failed groups without progress, the run would fail for ever.
FUTILE_ATTEMPTS = 3
# Smallest progress of an activity, as a share, that is passed on.
NEWS = 0.01


@dataclass(frozen=True)
class GroupProgress:
    """The progress of the newest group.

    Attributes:
        attempt: the group's number in the run.
        steps: number of steps that the group has trained.
        tokens: tokens that the run has consumed.
        first_step: time at which its first step was done, in seconds since the epoch; 0 if none.
        seconds: seconds since `first_step`.
        silent: seconds since the group's last sign of life.
        doing: the group's activity between two steps, such as "evaluating"; "" while it trains.
        begins: whether the activity has just begun and shows no progress yet (load, compile, save).
        step_seconds: seconds of a usual step; 0 while unknown.
        rate: tokens a second over the last steps, all workers; 0 while unknown.
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
        attempts: number of attempts before this driver.
        clock: returns the time in seconds since the epoch.
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
        # The last signs of life, each as (time, steps done, tokens consumed).
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
            recorded: how many of all rows taken before are durable now.
        """
        for _ in range(recorded - self._rows_recorded.total()):
            self._rows_recorded[self._rows_taken.popleft()] += 1
        self._rows_taken += self._rows_waiting
        self._rows_waiting = []
        taken, self._events = self._events, []
        return taken

    def recorded(self, attempt: int) -> int:
        """How many metric rows of an attempt are durable in the run's files."""
        return self._rows_recorded[attempt]

    def begin_attempt(self) -> tuple[int, int | None]:
        """Start an attempt; returns its number, and the micro-batch's limit if one was found."""
        self._attempts += 1
        self._futile += 1
        if self._futile > FUTILE_ATTEMPTS:
            died = f"the workers died {FUTILE_ATTEMPTS} times in a row without progress"
            self.fail(ErrorReport.of(TrainingError(died)))
        self._begin_watch()
        return self._attempts, self._micro_batch

    def limit_micro_batch(self, rows: int) -> bool:
        """Limit the rows in a forward pass of later attempts; returns whether that is a change."""
        if self._micro_batch is not None and self._micro_batch <= rows:
            return False
        self._micro_batch = rows
        self._futile = 0  # each halving is progress, and they end at one row
        return True

    def stepped(self, attempt: int, steps: int, tokens: int) -> None:
        """Take a sign of life: the steps of an attempt, and the tokens consumed by the run."""
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
        """Take a sign of life of an attempt that does something other than a step.

        Args:
            attempt: the attempt's number.
            doing: the activity, such as "evaluating".
            share: the share of the activity that is done, 0 to 1; 0 while unknown.
        """
        if attempt == self._attempts:
            self._sign_of_life = self._clock()
            self._show(doing, share)

    def _show(self, doing: str, share: float) -> None:
        """Tell the driver of an activity's progress if it is new: that of the furthest rank."""
        if doing != self._doing or share - self._shown >= NEWS:
            self.put(Busy(doing, share))
            self._shown = share
        self._doing, self._begins = doing, share == 0

    def progress(self) -> GroupProgress:
        """The progress of the newest attempt."""
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
        """Why the run failed for good; None if it did not."""
        return self._failure


def open_mailbox(attempts: int) -> AbstractContextManager[ActorHandle]:
    """A mailbox actor for the duration of a block.

    Args:
        attempts: number of attempts in earlier drivers of the run.
    """
    return beside_driver(Mailbox, attempts)
