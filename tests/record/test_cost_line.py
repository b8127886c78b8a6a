"""A line of costs: found again where it holds, and never with a part below 0."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.record.cost_line import cost_line

AMOUNTS = [1.0, 2.0, 4.0, 8.0]


@given(st.floats(0.01, 100), st.floats(0, 100))
def test_a_line_is_found_again(unit: float, fixed: float) -> None:
    found = cost_line(AMOUNTS, [fixed + unit * amount for amount in AMOUNTS])
    assert found == pytest.approx((unit, fixed), rel=1e-6, abs=1e-6)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0.1, 100)), min_size=1, max_size=6))
def test_no_part_is_below_0(measured: list[tuple[int, float]]) -> None:
    unit, fixed = cost_line(*zip(*measured, strict=True))
    assert unit >= 0
    assert fixed >= 0
    assert unit + fixed > 0


def test_one_measurement_is_in_proportion() -> None:
    assert cost_line([4.0], [2.0]) == (0.5, 0.0)


def test_one_odd_measurement_moves_a_part_little() -> None:
    """More costs less here: then the cost is the same for any amount, but for one that is odd."""
    assert cost_line(AMOUNTS, [2.0, 2.0, 2.0, 1.0]) == (0.0, 2.0)
