"""Strengths make the choices likeliest, and their intervals hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.govern.bradley_terry import PRIOR, chosen_over, strengths

COUNTS = st.integers(0, 40)


@given(wins=COUNTS, losses=COUNTS)
def test_of_two_models_it_is_the_log_odds(wins: int, losses: int) -> None:
    if not wins + losses:
        return
    found, covariance = strengths(np.array([[0, wins], [losses, 0]], float))
    won, lost = wins + PRIOR, losses + PRIOR
    assert found[0] - found[1] == pytest.approx(math.log(won / lost), abs=1e-9)
    assert covariance[1, 1] == pytest.approx(1 / won + 1 / lost, rel=1e-9)
    one, other = (chosen_over(found, covariance, *pair) for pair in ((0, 1), (1, 0)))
    assert one.rate == pytest.approx(won / (won + lost), abs=1e-9)
    assert 0 < one.low <= one.rate <= one.high < 1
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 30), min_size=12, max_size=12))
def test_no_other_strengths_are_likelier(counts: list[int]) -> None:
    wins = np.zeros((4, 4))
    wins[~np.eye(4, dtype=bool)] = counts
    found, _ = strengths(wins, prior=0)

    def likelihood(of: np.ndarray) -> float:
        return float(-(wins * np.log1p(np.exp(of[None] - of[:, None]))).sum())

    for place in range(1, 4):
        for moved in (-1e-3, 1e-3):
            other = found.copy()
            other[place] += moved
            assert likelihood(other) <= likelihood(found)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    random, truth = np.random.default_rng(0), 0.7
    covered = 0
    for _ in range(400):
        won = random.binomial(60, truth)
        rate = chosen_over(*strengths(np.array([[0, won], [60 - won, 0]], float)), 0, 1)
        covered += rate.low <= truth <= rate.high
    assert 0.92 <= covered / 400 <= 0.99


def test_models_that_never_met_are_not_compared() -> None:
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[2, 3] = 3
    with pytest.raises(ValueError, match="never compared"):
        strengths(wins)
