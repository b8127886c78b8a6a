"""How the loss on each source depends on the mixture: laws fitted to small runs, the best mixture.

The law of a source j is L_j(w) = c_j + exp(b_j · w) with the shares w (Ye et al., 2024, "Data
Mixing Laws", arXiv:2403.16952; as shares sum to 1, the factor before the exponential lies in b_j).
RegMix (arXiv:2407.01492) proposes mixtures by such a regression over small runs. Intervals are
those of a bootstrap over the runs. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Mixtures among which the best is looked for, and draws of the bootstrap. One seed: the same runs
# give the same answer.
CANDIDATES, DRAWS, SEED = 8192, 200, 0
# Rounds in which mixtures around the best one so far are added, ever closer to it.
ROUNDS = (30.0, 300.0, 3000.0)
# Distances of a floor below the least loss that are tried, in parts of the losses' range.
FLOORS = tuple(np.geomspace(0.005, 100, 24).tolist())


@dataclass(frozen=True)
class MixingLaws:
    """The laws of all sources.

    Attributes:
        floors: c, shape (sources,).
        slopes: b, shape (shares, sources).
    """

    floors: Floats
    slopes: Floats

    def losses(self, shares: Floats) -> Floats:
        """Losses (…, sources) at shares (…, shares)."""
        found: Floats = self.floors + np.exp(shares @ self.slopes)
        return found


@dataclass(frozen=True)
class Proposal:
    """A mixture, and what is expected of it.

    Attributes:
        shares: share of each source; sum to 1.
        low: lower end of the 90 % interval of each share.
        high: upper end.
        loss: predicted loss, the mean over sources by the weights that were given.
        reference: predicted loss of the mixture that it is compared with.
        gain: 95 % interval of the predicted gain over that mixture, in nats.
        error: root mean square error of predictions of runs that were left out of the fit, in nats.
    """

    shares: Floats
    low: Floats
    high: Floats
    loss: float
    reference: float
    gain: tuple[float, float]
    error: float

    @property
    def within_noise(self) -> bool:
        """Whether the mixture that it is compared with may be as good."""
        return self.gain[0] <= 0


def least_runs(sources: int) -> int:
    """The number of runs that a fit needs: two more than a law has numbers, one to leave out."""
    return sources + 3


def fit(shares: Floats, losses: Floats) -> MixingLaws:
    """The laws of all sources, by least squares.

    Args:
        shares: shares of the runs, (runs, shares).
        losses: loss of each run on each source, (runs, sources).
    """
    floors, slopes = [], []
    for column in losses.T:
        spread = max(float(np.ptp(column)), 1e-9)
        tried = [_with_floor(shares, column, column.min() - part * spread) for part in FLOORS]
        _, floor, slope = min(tried, key=lambda each: each[0])
        floors.append(floor)
        slopes.append(slope)
    return MixingLaws(np.array(floors), np.stack(slopes, axis=1))


def _with_floor(shares: Floats, losses: Floats, floor: float) -> tuple[float, float, Floats]:
    """Squared error, floor and slope of the law with a floor."""
    over = losses - floor
    # Weighted by the derivative, so that errors are those of losses and not of logarithms.
    slope = np.asarray(np.linalg.lstsq(shares * over[:, None], np.log(over) * over)[0], float)
    left = floor + np.exp(np.clip(shares @ slope, -50, 50)) - losses
    return float(left @ left), floor, slope


def propose(
    shares: Floats,
    losses: Floats,
    weights: Floats,
    reference: Floats,
    allowed: Callable[[Floats], NDArray[np.bool_]] = lambda shares: np.full(len(shares), True),
) -> Proposal:
    """The mixture with the least predicted loss.

    Args:
        shares: shares of the runs, (runs, shares); at least `least_runs` runs.
        losses: loss of each run on each source, (runs, sources).
        weights: weight of each source in the loss that is made small; sum to 1.
        reference: shares of the mixture to compare with.
        allowed: tells of mixtures (many, shares) which may be proposed, bool (many,).

    Raises:
        ValueError: if no mixture is allowed.
    """
    draw = np.random.default_rng(SEED)
    laws = fit(shares, losses)
    candidates = draw.dirichlet(np.ones(shares.shape[1]), CANDIDATES)
    candidates = np.concatenate([candidates, np.eye(shares.shape[1]), shares, reference[None]])
    candidates = candidates[allowed(candidates)]
    if not len(candidates):
        raise ValueError("no mixture is allowed")
    for closeness in ROUNDS:
        best = candidates[np.argmin(laws.losses(candidates) @ weights)]
        near = draw.dirichlet(closeness * best + 1e-3, CANDIDATES // 8)
        candidates = np.concatenate([candidates, near[allowed(near)]])
    best = candidates[np.argmin(laws.losses(candidates) @ weights)]
    found, gains = [], []
    for _ in range(DRAWS):
        laws_drawn = _redrawn(draw, shares, losses)
        found.append(candidates[np.argmin(laws_drawn.losses(candidates) @ weights)])
        gains.append(float((laws_drawn.losses(reference) - laws_drawn.losses(best)) @ weights))
    low, high = np.quantile(found, [0.05, 0.95], axis=0)
    gain_low, gain_high = np.quantile(gains, [0.025, 0.975])
    return Proposal(
        shares=best,
        low=low,
        high=high,
        loss=float(laws.losses(best) @ weights),
        reference=float(laws.losses(reference) @ weights),
        gain=(float(gain_low), float(gain_high)),
        error=_error_left_out(shares, losses, weights),
    )


def _redrawn(draw: np.random.Generator, shares: Floats, losses: Floats) -> MixingLaws:
    """Laws of runs that are drawn with replacement, of which enough are unlike."""
    while True:
        rows = draw.integers(len(shares), size=len(shares))
        if len(np.unique(rows)) > shares.shape[1]:
            return fit(shares[rows], losses[rows])


def _error_left_out(shares: Floats, losses: Floats, weights: Floats) -> float:
    """Root mean square error of the predicted loss of each run by a fit of the others."""
    errors = []
    for index in range(len(shares)):
        others = np.arange(len(shares)) != index
        laws = fit(shares[others], losses[others])
        errors.append(float((laws.losses(shares[index]) - losses[index]) @ weights))
    return float(np.sqrt(np.mean(np.square(errors))))
