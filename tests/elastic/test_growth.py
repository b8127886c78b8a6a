"""Growing is weighed: gain against cost, in tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.elastic.controller.growth import Growth

HOUR = 3600.0
BASE = Growth(
    workers=2,
    possible=4,
    rate=1000.0,
    remaining=10**9,
    stay=HOUR,
    restart=5.0,
    running=60.0,
    settle=30.0,
)


def test_gain_and_cost_are_in_tokens() -> None:
    assert BASE.horizon == HOUR
    assert BASE.gain == 2 * 1000 * HOUR
    assert BASE.cost == 2 * 1000 * 5
    assert BASE.worthwhile


def test_the_end_of_a_run_is_not_worth_a_restart() -> None:
    nearly_done = replace(BASE, remaining=4000)  # one second of four workers
    assert nearly_done.horizon == 1.0
    assert not nearly_done.worthwhile


def test_nodes_that_leave_at_once_are_not_worth_a_restart() -> None:
    assert not replace(BASE, stay=4.0).worthwhile


def test_a_group_settles_before_it_is_changed_again() -> None:
    assert not replace(BASE, running=29.9).worthwhile


def test_the_numbers_are_told() -> None:
    assert BASE.explained() == (
        "growing from 2 to 4 workers: 7.2M tokens to gain in 3600 s at 1.0K tokens/s per worker, "
        "10.0K tokens to lose in a restart of 5.0 s"
    )
    assert replace(BASE, stay=1.0).explained().startswith("staying at 2 workers, 4 are possible")


@given(more=st.integers(5, 1000), stay=st.floats(1, 1e6))
def test_more_workers_and_longer_stays_never_make_it_worse(more: int, stay: float) -> None:
    small, large = replace(BASE, stay=stay), replace(BASE, stay=stay, possible=more)
    assert large.gain == pytest.approx(small.gain * (more - 2) / 2) or large.horizon < stay
    if replace(BASE, stay=stay).worthwhile:
        assert replace(BASE, stay=stay * 2).worthwhile
