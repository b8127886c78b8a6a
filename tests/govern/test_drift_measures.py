"""Measures of drift are those of their definitions, and chance is what permutations make of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.govern import drift_measures as by

VALUES = st.lists(st.integers(0, 6), min_size=2, max_size=30)


def as_it_is(first: int, second: int) -> by.Deal:
    return by.Deal.of(first, second, 0, 0)


@given(VALUES, VALUES)
def test_the_gap_is_the_largest_difference_of_the_shares_below_any_value(
    first: list[int], second: list[int]
) -> None:
    (found,) = by.largest_gap(np.array([*first, *second], float), as_it_is(len(first), len(second)))
    shares = [
        [sum(value <= bound for value in side) / len(side) for side in (first, second)]
        for bound in range(7)
    ]
    assert found == pytest.approx(max(abs(one - two) for one, two in shares), abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=9))
def test_the_stability_index_is_the_divergence_in_both_directions(
    counts: list[tuple[int, int]],
) -> None:
    p, q = (np.array(side, float) + 0.5 for side in zip(*counts, strict=True))
    p, q = p / p.sum(), q / q.sum()
    both = sum(a * math.log(a / b) + b * math.log(b / a) for a, b in zip(p, q, strict=True))
    first, second = (np.array(side, float) for side in zip(*counts, strict=True))
    found = by.stability_index(first, second)
    assert found == pytest.approx(both, abs=1e-12)
    assert found == pytest.approx(by.stability_index(second, first), abs=1e-12)
    assert by.stability_index(first, first) == 0


def test_dealt_measures_are_those_of_the_two_sides() -> None:
    random = np.random.default_rng(1)
    points, counts = random.normal(size=(23, 4)), random.integers(0, 9, (23, 5)).astype(float)
    deal = by.Deal.of(10, 13, 3, seed=5)
    assert deal.sides[0].tolist() == [1] * 10 + [0] * 13
    index, apart = by.dealt_stability_index(counts, deal), by.mean_discrepancy(points, deal)
    rise = by.rise_of_means(counts[:, 0], counts[:, 1], deal)
    squares = [((a - b) ** 2).sum() for k, a in enumerate(points) for b in points[:k]]
    width = np.median(squares)

    def mean_kernel(one: list[int], two: list[int]) -> float:
        pairs = [(a, b) for a in one for b in two if a != b]
        apart = [((points[a] - points[b]) ** 2).sum() for a, b in pairs]
        return float(np.mean([math.exp(-each / (2 * width)) for each in apart]))

    for row, sides in enumerate(deal.sides):
        one, two = (np.flatnonzero(sides == side).tolist() for side in (1, 0))
        assert (len(one), len(two)) == (10, 13)
        first, second = counts[one].sum(0), counts[two].sum(0)
        assert index[row] == pytest.approx(by.stability_index(first, second), abs=1e-12)
        assert rise[row] == pytest.approx(second[0] / second[1] - first[0] / first[1], abs=1e-12)
        wanted = mean_kernel(one, one) + mean_kernel(two, two) - 2 * mean_kernel(one, two)
        assert apart[row] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(("moved", "drifts"), [(0.0, False), (1.0, True)])
def test_chance_tells_noise_from_a_change(moved: float, drifts: bool) -> None:
    random = np.random.default_rng(3)
    values = random.normal(size=160)
    values[80:] += moved
    deal = by.Deal.of(80, 80, 199, seed=0)
    for found in (by.largest_gap(values, deal), by.mean_discrepancy(values[:, None], deal)):
        assert (by.chance(found) <= 0.01) is drifts
        assert 1 / 200 <= by.chance(found) <= 1


def test_measures_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(2)
    first, second = random.normal(size=300), random.normal(0.2, 1.3, size=200)
    (gap,) = by.largest_gap(np.concatenate([first, second]), as_it_is(300, 200))
    assert gap == pytest.approx(stats.ks_2samp(first, second).statistic, abs=1e-15)
    p, q = random.integers(1, 99, (2, 12)).astype(float)
    both = stats.entropy(p, q) + stats.entropy(q, p)
    assert by.stability_index(p, q, prior=0) == pytest.approx(both, abs=1e-14)
