"""A run that stands is told of once, whatever it stands for."""

from __future__ import annotations

from dataclasses import dataclass

from manta.elastic.driver.stall_watch import StallWatch
from manta.elastic.messages.mailbox import Mailbox


@dataclass
class Time:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_stall_is_told_once() -> None:
    clock = Time()
    mailbox, watch = Mailbox(0, clock), StallWatch(60, clock)

    def after(seconds: float) -> str | None:
        clock.now += seconds
        return watch.look(mailbox.progress())

    assert after(60) is None
    assert after(1) == "no new step for 61 s (alerts.stall): waiting for workers"
    assert after(600) is None
    attempt, _ = mailbox.begin_attempt()
    mailbox.stepped(attempt, 1, 10)
    assert after(0) is None
    mailbox.busy(attempt, "evaluating", 0.5)
    assert after(61) == "no new step for 61 s (alerts.stall): evaluating"
    # Workers that die and come again have made no step.
    attempt, _ = mailbox.begin_attempt()
    assert after(100) is None
    mailbox.stepped(attempt, 1, 20)
    assert after(0) is None
    assert after(61) == "no new step for 61 s (alerts.stall)"


def test_it_is_not_looked_for_unless_asked() -> None:
    clock = Time()
    watch = StallWatch(None, clock)
    clock.now += 1e6
    assert watch.look(Mailbox(0, clock).progress()) is None
