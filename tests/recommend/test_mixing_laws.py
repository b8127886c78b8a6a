"""Laws of mixtures: that they are found again where they hold, and what is proposed by them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.recommend.mixing_laws import MixingLaws, fit, least_runs, propose

SOURCES = 3


def law(seed: int) -> MixingLaws:
    """A law by which each source is learnt best from itself, and a little from the others."""
    draw = np.random.default_rng(seed)
    slopes = draw.uniform(-0.2, 0.8, (SOURCES, SOURCES))
    slopes[np.diag_indices(SOURCES)] = draw.uniform(-2.5, -1.5, SOURCES)
    return MixingLaws(draw.uniform(1.0, 2.0, SOURCES), slopes)


def runs(true: MixingLaws, count: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(1)
    shares = draw.dirichlet(np.ones(SOURCES), count)
    return shares, true.losses(shares) + draw.normal(0, noise, (count, SOURCES))


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_a_law_that_holds_is_found_again(seed: int) -> None:
    true = law(seed)
    shares, losses = runs(true, 24)
    found = fit(shares, losses)
    elsewhere = np.random.default_rng(2).dirichlet(np.ones(SOURCES), 50)
    assert np.abs(found.losses(elsewhere) - true.losses(elsewhere)).max() < 0.05


def test_the_best_mixture_is_proposed_within_its_interval() -> None:
    true, weights = law(7), np.array([0.5, 0.3, 0.2])
    reference = np.array([0.98, 0.01, 0.01])
    fine = np.random.default_rng(3).dirichlet(np.ones(SOURCES), 200_000)
    best = fine[np.argmin(true.losses(fine) @ weights)]
    found = propose(*runs(true, 30, noise=0.01), weights, reference)
    regret = (true.losses(found.shares) - true.losses(best)) @ weights
    assert 0 <= regret < 0.01
    assert np.all(found.low <= found.shares + 0.02)
    assert np.all(found.shares <= found.high + 0.02)
    assert found.shares.sum() == pytest.approx(1)
    assert not found.within_noise
    assert found.gain[0] < found.reference - found.loss < found.gain[1]
    assert 0.005 < found.error < 0.03, "the noise of the runs, averaged over sources, and the fit"


def test_the_same_runs_give_the_same_answer() -> None:
    given_runs, weights = runs(law(5), 12, noise=0.02), np.ones(SOURCES) / SOURCES
    one, two = (propose(*given_runs, weights, weights) for _ in range(2))
    assert one.shares.tolist() == two.shares.tolist()
    assert one.gain == two.gain


def test_losses_that_no_mixture_changes_are_within_noise() -> None:
    draw = np.random.default_rng(4)
    shares = draw.dirichlet(np.ones(SOURCES), 20)
    losses = 3 + draw.normal(0, 0.05, (20, SOURCES))
    even = np.ones(SOURCES) / SOURCES
    assert propose(shares, losses, even, even).within_noise


def test_what_is_not_allowed_is_not_proposed() -> None:
    true, even = law(7), np.ones(SOURCES) / SOURCES
    free = propose(*runs(true, 24), even, even)
    index = int(np.argmax(free.shares))
    limit = free.shares[index] / 2
    found = propose(*runs(true, 24), even, even, lambda mixes: mixes[:, index] <= limit)
    assert found.shares[index] <= limit
    assert found.loss > free.loss
    with pytest.raises(ValueError, match="no mixture"):
        propose(*runs(true, 24), even, even, lambda mixes: np.full(len(mixes), False))


def test_as_many_runs_are_asked_for_as_a_fit_needs() -> None:
    shares, losses = runs(law(1), least_runs(SOURCES))
    even = np.ones(SOURCES) / SOURCES
    assert np.isfinite(propose(shares, losses, even, even).loss)
