"""A run's money and hours, and the workers that it may have for them."""

from __future__ import annotations

from typing import Any

import pytest

from manta.config.cost import CostSection
from manta.elastic.controller.spending import DECISION_SECONDS, Spending
from manta.record.alert_record import AlertCause


class Time:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


def spending(clock: Time, *, spent: float = 0.0, hours: float = 0.0, **cost: Any) -> Spending:
    section = CostSection(**cost)
    return Spending(section, (1, 4), 1.0, spent=spent, hours=hours, clock=clock)


def test_held_slots_cost_money_until_the_budget_is_spent(clock) -> None:
    held = spending(clock, per_device_hour=2.0, budget=5.0, spent=1.0)
    clock.now += 3600
    held.count(3.0)
    assert not held.is_exhausted
    clock.now += 1200
    held.count(3.0)
    assert held.is_exhausted


def test_without_budget_or_deadline_nothing_is_decided(clock) -> None:
    held = spending(clock, per_device_hour=2.0)
    assert held.decide(2, 100.0, 10**9, [2.0, 2.0]) is None
    assert (held.most, held.is_exhausted) == (4, False)


def test_the_fewest_workers_that_are_in_time(clock) -> None:
    """At 1,000 tokens/s alone and 1,600 by two, 3.6 M tokens take an hour and 0.625 h."""
    held = spending(clock, per_device_hour=2.0, deadline=1.5, hours=0.25)
    assert "at most 4 workers" in str(held.decide(4, 2285.7, 3_600_000, [2.0] * 4))
    assert held.most == 4  # of one speed nothing follows for others but proportion
    clock.now += DECISION_SECONDS
    held.count(8.0)
    said = held.decide(2, 1600.0, 3_600_000, [2.0] * 2)
    assert held.most == 1
    assert "at most 1 workers: 1 h to the end, 1.24 h to the deadline; 2.00" in str(said)
    clock.now += DECISION_SECONDS
    held.count(2.0)
    assert held.decide(1, 1000.0, 3_590_000, [2.0]) is None  # as before


def test_a_change_that_saves_next_to_nothing_is_not_made(clock) -> None:
    held = spending(clock, per_device_hour=2.0, deadline=9.0)
    held.decide(2, 1960.0, 3_600_000, [2.0] * 2)
    clock.now += DECISION_SECONDS
    held.decide(1, 1000.0, 3_600_000, [2.0])
    assert held.most == 1
    clock.now += DECISION_SECONDS
    held.decide(2, 1960.0, 3_600_000, [2.0] * 2)
    assert held.most == 2  # one worker would save two hundredths


def test_cheap_slots_come_first_and_unknown_ones_cost_the_usual(clock) -> None:
    """Two spot slots at 0.5 are held: two workers cost 1, four 1 + 2 × 2 an hour."""
    held = spending(clock, per_device_hour=2.0, budget=1.5)
    held.decide(2, 2000.0, 7_200_000, [0.5, 0.5])
    assert held.most == 2


def test_what_can_not_be_kept_to_is_told(clock) -> None:
    held = spending(clock, per_device_hour=2.0, budget=1.0, deadline=0.1)
    said = held.decide(2, 1000.0, 7_200_000, [2.0, 2.0])
    assert "The budget does not reach to the end" in str(said)
    assert held.alert == AlertCause("budget", "budget of 1 too small")
    held = spending(clock, per_device_hour=2.0, deadline=0.1)
    said = held.decide(2, 1000.0, 7_200_000, [2.0, 2.0])
    assert "is in time" in str(said)
    assert held.alert == AlertCause("budget", "deadline of 0.1 h too early")
    assert held.most == 4


def test_prices_by_kind() -> None:
    cost = CostSection(by_kind={"spot": 0.7, "on-demand": 2.0})
    assert cost.price_of({"ray.io/market-type": "spot"}) == 0.7
    assert cost.price_of({}) == 2.0
    assert CostSection(per_device_hour=1.0, by_kind={"spot": 0.7}).price_of({}) == 1.0


def test_a_budget_needs_prices() -> None:
    with pytest.raises(ValueError, match="a budget needs prices"):
        CostSection(budget=3.0)
