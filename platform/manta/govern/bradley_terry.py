"""Strengths of models by which of two answers people chose, with intervals.

The model of Bradley and Terry (1952): A is chosen over B with probability
1 / (1 + exp(strength of B - strength of A)). A tie counts as half a choice for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEVEL = 0.95
# Half a choice in both directions for each two models that met (Haldane, 1955), so that a model
# that was always chosen has a finite strength.
PRIOR = 0.5
MOST_STEPS, TOLERANCE = 100, 1e-12


@dataclass(frozen=True)
class ChosenOver:
    """How often one model is chosen over another.

    Attributes:
        rate: probability that the first is chosen over the second.
        low: lower end of its interval.
        high: upper end of its interval.
    """

    rate: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the interval says of the first model."""
        if self.low <= 0.5 <= self.high:
            return "within noise"
        return "better" if self.low > 0.5 else "worse"


def strengths(wins: Floats, prior: float = PRIOR) -> tuple[Floats, Floats]:
    """Strengths of models, the first one's 0, and their covariance, by Newton's method.

    Args:
        wins: how often the model of the row was chosen over that of the column, (models, models).
        prior: choices that are added in both directions to each two models that met.

    Returns:
        The strengths (models,), and their covariance (models, models), whose first row and column
        are 0.

    Raises:
        ValueError: if some models never met, directly or by way of others.
    """
    met = (wins + wins.T) > 0
    _check_connected(met)
    wins = wins + prior * met
    played = wins + wins.T
    found = np.zeros(len(wins))
    for _ in range(MOST_STEPS):
        expected = 1 / (1 + np.exp(found[None] - found[:, None]))
        gradient = (wins - played * expected).sum(axis=1)
        information = _information(played, expected)
        step = np.zeros(len(wins))
        step[1:] = np.linalg.solve(information[1:, 1:], gradient[1:])
        found = found + np.clip(step, -2, 2)
        if np.abs(step).max(initial=0) < TOLERANCE:
            break
    expected = 1 / (1 + np.exp(found[None] - found[:, None]))
    covariance = np.zeros_like(wins)
    covariance[1:, 1:] = np.linalg.inv(_information(played, expected)[1:, 1:])
    return found, covariance


def _information(played: Floats, expected: Floats) -> Floats:
    """Fisher's information: of each two models played · p · (1 - p), as a graph's Laplacian."""
    weights = played * expected * (1 - expected)
    found: Floats = np.diag(weights.sum(axis=1)) - weights
    return found


def chosen_over(
    found: Floats, covariance: Floats, first: int, second: int, tests: int = 1
) -> ChosenOver:
    """How often one model is chosen over another, with an interval on the scale of log-odds.

    Args:
        found: strengths of all models.
        covariance: covariance of the strengths.
        first: index of the first model.
        second: index of the second model.
        tests: number of intervals that hold together with 95 % (Bonferroni).
    """
    odds = float(found[first] - found[second])
    variance = covariance[first, first] + covariance[second, second] - 2 * covariance[first, second]
    width = NormalDist().inv_cdf(1 - (1 - LEVEL) / (2 * tests)) * float(np.sqrt(variance))
    low, rate, high = (1 / (1 + np.exp(-value)) for value in (odds - width, odds, odds + width))
    return ChosenOver(float(rate), float(low), float(high))


def _check_connected(met: NDArray[np.bool_]) -> None:
    reached = {0}
    while more := {int(n) for one in reached for n in np.flatnonzero(met[one])} - reached:
        reached |= more
    if len(reached) < len(met):
        raise ValueError("some models were never compared, directly or by way of others")
