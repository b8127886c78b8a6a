"""The statistics of a comparison against tables, numbers worked out by hand, and laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from manta.show.compare import t_distribution
from manta.show.compare.comparison_stats import (
    Noise,
    difference,
    estimate,
    explained,
    importance,
    pooled_noise,
    reached_by_all,
    short,
    value_at,
)

numbers = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 3))
seeds = st.lists(numbers, min_size=3, max_size=6)


@pytest.mark.parametrize(
    ("freedom", "value"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (5, 2.57058), (10, 2.22814), (30, 2.04227)],
)
def test_quantiles_are_those_of_the_tables(freedom: int, value: float) -> None:
    assert t_distribution.quantile(0.975, freedom) == pytest.approx(value, rel=3e-6)


def test_many_degrees_of_freedom_are_the_normal_distribution() -> None:
    assert t_distribution.quantile(0.975, 1e6) == pytest.approx(1.959966, rel=1e-5)


@given(st.floats(-30, 30))
def test_one_and_two_degrees_have_closed_forms(t: float) -> None:
    assert t_distribution.cumulative(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-12)
    closed = 0.5 + t / (2 * math.sqrt(2 + t * t))
    assert t_distribution.cumulative(t, 2) == pytest.approx(closed, abs=1e-12)


@given(st.floats(0.55, 0.999), st.floats(1, 50))
def test_quantile_inverts_cumulative(probability: float, freedom: float) -> None:
    value = t_distribution.quantile(probability, freedom)
    assert t_distribution.cumulative(value, freedom) == pytest.approx(probability, abs=1e-9)


def test_an_interval_from_three_seeds_is_their_own() -> None:
    found = estimate([1.0, 2.0, 3.0], Noise(variance=100.0, freedom=50))
    assert (found.mean, found.count) == (2.0, 3)
    assert found.half == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)


def test_noise_is_pooled_over_configurations() -> None:
    pooled = pooled_noise([[1.0, 3.0], [2.0, 2.0], [7.0]])
    assert pooled == Noise(variance=1.0, freedom=2)
    two, one = estimate([1.0, 3.0], pooled), estimate([7.0], pooled)
    assert two.half == pytest.approx(4.30265 / math.sqrt(2), rel=1e-5)
    assert one.half == pytest.approx(4.30265, rel=1e-5)


def test_without_seeds_the_noise_is_unknown() -> None:
    assert pooled_noise([[1.0], [2.0]]) is None
    assert estimate([1.0], None).half is None
    found = difference([1.0], [2.0], None)
    assert (found.gap, found.half, found.within_noise) == (1.0, None, None)


def test_welch_by_hand() -> None:
    # Variances 1 and 4 of three: squared error 5/3, freedom (5/3)² / (1/18 + 16/18) = 50/17.
    found = difference([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], None)
    assert found.gap == 2.0
    assert found.half == pytest.approx(t_distribution.quantile(0.975, 50 / 17) * math.sqrt(5 / 3))
    assert found.within_noise is True


def test_few_seeds_are_compared_by_pooled_noise() -> None:
    found = difference([1.0], [4.0, 6.0], Noise(variance=2.0, freedom=10))
    assert found.gap == 4.0
    assert found.half == pytest.approx(2.22814 * math.sqrt(3), rel=1e-5)
    assert found.within_noise is False


def test_seeds_that_agree_to_the_last_digit_leave_no_noise() -> None:
    assert difference([1.0] * 3, [2.0] * 3, None).half == 0.0
    assert difference([1.0] * 3, [2.0] * 3, None).within_noise is False
    assert difference([1.0] * 3, [1.0] * 3, None).within_noise is True


@given(seeds, seeds, numbers)
def test_a_difference_has_no_side_and_no_origin(
    first: list[float], second: list[float], shift: float
) -> None:
    there, back = difference(first, second, None), difference(second, first, None)
    moved = difference([v + shift for v in first], [v + shift for v in second], None)
    assert there.half is not None
    assert there.gap == -back.gap
    assert back.half == pytest.approx(there.half)
    assert moved.gap == pytest.approx(there.gap, abs=1e-9)
    assert moved.half == pytest.approx(there.half, abs=1e-6)


@given(st.lists(seeds, min_size=2, max_size=4))
def test_more_seeds_with_the_same_spread_know_more(groups: list[list[float]]) -> None:
    pooled = pooled_noise(groups)
    assert pooled is not None
    one, two = estimate(groups[0][:1], pooled), estimate(groups[0][:2], pooled)
    assert one.half is not None
    assert two.half == pytest.approx(one.half / math.sqrt(2))


def test_value_at_a_place_lies_between_rows_and_nowhere_outside() -> None:
    assert value_at([10, 20], [3.0, 2.0], 15) == 2.5
    assert value_at([10, 20], [3.0, 2.0], 20) == 2.0
    assert value_at([10, 20], [3.0, 2.0], 9) is None
    assert value_at([10, 20], [3.0, 2.0], 21) is None
    assert value_at([], [], 1) is None


def test_what_all_reached() -> None:
    assert reached_by_all([[10, 30], [5, 20]]) == 20
    assert reached_by_all([[10, 30], [5, 8]]) is None
    assert reached_by_all([[10], []]) is None
    assert reached_by_all([]) is None


def test_epsilon_squared_by_hand() -> None:
    # Total 5, within 1 with 2 degrees of freedom: (4 - 1/2) / 5.
    assert explained([[1.0, 2.0], [3.0, 4.0]]) == pytest.approx(0.7)
    assert explained([[1.0, 4.0], [2.0, 3.0]]) == 0.0
    assert explained([[1.0], [2.0]]) is None
    assert explained([[1.0, 2.0]]) is None
    assert explained([[0.1 + 0.2, 0.3], [0.3, 0.3]]) is None


def test_the_parameter_that_decides_comes_first() -> None:
    rows = [
        ({"idle": idle, "lr": lr, "name": {"name": "wsd", "decay": "20%"}}, value + 0.01 * idle)
        for lr, value in ((1e-3, 1.0), (1e-2, 3.0))
        for idle in (0, 1, 2)
    ]
    first, second = importance(rows)
    assert first.key == "lr"
    assert first.share > 0.99
    assert first.groups == (("0.001", pytest.approx(1.01)), ("0.01", pytest.approx(3.01)))
    assert (second.key, second.share) == ("idle", 0.0)


def test_a_number_with_many_values_is_cut_into_ranges() -> None:
    rows = [({"lr": float(n)}, abs(n - 5.5)) for n in range(1, 13)]
    (found,) = importance(rows)
    assert [name for name, _ in found.groups] == ["1 to 3", "4 to 6", "7 to 9", "10 to 12"]
    assert found.groups[1][1] == pytest.approx((1.5 + 0.5 + 0.5) / 3)
    assert 0 < found.share < 1


@given(
    st.lists(st.tuples(st.sampled_from("abc"), numbers), min_size=4, max_size=20),
    numbers,
    st.floats(0.1, 10),
)
def test_importance_has_no_unit(rows: list[tuple[str, float]], shift: float, scale: float) -> None:
    values = [value for _, value in rows]
    assume(max(values) - min(values) > 0.01)
    one = importance([({"key": key}, value) for key, value in rows])
    other = importance([({"key": key}, scale * value + shift) for key, value in rows])
    assert [found.share for found in one] == pytest.approx([f.share for f in other], abs=1e-6)
    assert all(0 <= found.share <= 1 for found in one)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (0.00031, "0.00031"),
        (64, "64"),
        ("20%", "20%"),
        ([1, {"to": 2.0}], "[1, to 2]"),
        ({"name": "ramp", "from": 8, "start": None}, "ramp from 8"),
    ],
)
def test_values_in_few_characters(value: object, text: str) -> None:
    assert short(value) == text
