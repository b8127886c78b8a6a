"""Hours against money: speeds are fitted, and the number of workers follows from them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.record.frontier import Option, Speeds, choose, measured_speeds, options
from manta.record.run_state import Group, RunState

SIZES = range(1, 9)


@given(st.floats(1e-6, 1e3), st.floats(0, 1e3), st.sets(st.sampled_from(SIZES), min_size=2))
def test_speeds_of_that_form_are_found_again(shared: float, fixed: float, seen: set[int]) -> None:
    def speed(workers: int) -> float:
        return 1 / (shared / workers + fixed)

    found = Speeds({workers: speed(workers) for workers in seen})
    assert [found.of(w) for w in SIZES] == pytest.approx([speed(w) for w in SIZES], rel=1e-2)


@given(st.dictionaries(st.sampled_from(SIZES), st.floats(1.0, 1e9), min_size=1))
def test_more_workers_are_never_said_to_be_slower_nor_better_than_proportional(measured) -> None:
    speeds = [Speeds(measured).of(workers) for workers in SIZES]
    for index, (less, more) in enumerate(pairwise(speeds), start=1):
        assert less * (1 - 1e-9) <= more <= less * (index + 1) / index * (1 + 1e-9)


# Twice as many workers train 1.6 times as fast, at 2.00 an hour each.
FOUND = options((1, 2, 4), 3.6e6, Speeds({1: 1000.0, 2: 1600.0}), lambda workers: 2.0 * workers)


def test_hours_and_money() -> None:
    assert [one.workers for one in FOUND] == [1, 2, 4]
    assert [one.hours for one in FOUND] == pytest.approx([1.0, 0.625, 0.4375])
    assert [one.money for one in FOUND] == pytest.approx([2.0, 2.5, 3.5])


@pytest.mark.parametrize(
    ("hours", "money", "workers", "in_time", "in_budget"),
    [
        (None, None, 4, True, True),  # the fastest
        (2.0, None, 1, True, True),  # the cheapest that is in time
        (0.7, None, 2, True, True),
        (0.3, None, 4, False, True),  # none is: the fastest
        (None, 2.6, 2, True, True),  # the fastest for the money
        (None, 1.0, 1, True, False),  # none: the cheapest
        (0.5, 2.6, 2, False, True),  # not both: the budget counts
        (0.7, 9.0, 2, True, True),
        (0.5, 1.0, 1, False, False),
    ],
)
def test_the_choice(hours, money, workers, in_time, in_budget) -> None:
    found = choose(FOUND, hours, money)
    assert (found.option.workers, found.in_time, found.in_budget) == (workers, in_time, in_budget)


def test_of_options_that_cost_the_same_the_fastest() -> None:
    alike = [Option(1, 2.0, 5.0), Option(2, 1.0, 5.01)]
    assert choose(alike, 3.0, None).option.workers == 2


def group(workers: int, tokens: int, seconds: float) -> Group:
    return Group(
        attempt=1,
        world_size=workers,
        devices=workers,
        step=0,
        tokens=100,
        last_step=1,
        last_tokens=100 + tokens,
        started="",
        seconds=seconds,
    )


def test_speeds_of_a_record_are_those_of_groups_that_trained_for_a_while() -> None:
    state = RunState.model_construct(
        groups=[group(1, 1000, 20.0), group(2, 50, 1.0), group(1, 2000, 20.0), group(3, 0, 60.0)]
    )
    assert measured_speeds(state) == {1: 75.0}
