"""How far two sets of documents are apart, and how far they would be by chance.

Chance is measured by permutations: documents are dealt anew to both sides, as many to each, and
the measure is computed again (Good, 2005, "Permutation, Parametric, and Bootstrap Tests of
Hypotheses"). Documents are dealt whole, since the tokens of one document are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Added to each count, so that a bin that one side lacks has a finite share (Jeffreys' prior).
PRIOR = 0.5


@dataclass(frozen=True)
class Deal:
    """Which documents are on the first side: as they are, and by permutations.

    Attributes:
        sides: 1 for documents of the first side and 0 for the others, float64 (1 + permutations,
            documents); row 0 is how they are.
        first: number of documents of the first side.
    """

    sides: Floats
    first: int

    @classmethod
    def of(cls, first: int, second: int, permutations: int, seed: int) -> Deal:
        """Documents of the first side, then those of the second; permutations of one seed."""
        random = np.random.Generator(np.random.PCG64(seed))
        here = np.zeros(first + second)
        here[:first] = 1
        rows = [here, *(random.permutation(here) for _ in range(permutations))]
        return cls(np.stack(rows), first)

    @property
    def second(self) -> int:
        """Number of documents of the second side."""
        return len(self.sides[0]) - self.first


def chance(values: Floats) -> float:
    """The p-value of the first of some values, of which the others are by chance.

    (1 + those at least as large) / (1 + permutations), so that it is never 0 (Phipson and Smyth,
    2010).
    """
    return float((values >= values[0] - 1e-12).mean())


def stability_index(first: Floats, second: Floats, prior: float = PRIOR) -> Floats:
    """The population stability index of counts: sum of (q - p) ln(q / p) over bins.

    It is the Kullback-Leibler divergence in both directions added up (Siddiqi, 2006, "Credit Risk
    Scorecards"); by custom 0.1 is a small change and 0.25 a large one.

    Args:
        first: counts of the reference, (…, bins).
        second: counts of the new data, (…, bins).
        prior: count that is added to each bin.
    """
    p, q = (
        (counts + prior) / (counts + prior).sum(axis=-1, keepdims=True)
        for counts in (first, second)
    )
    found: Floats = ((q - p) * np.log(q / p)).sum(axis=-1)
    return found


def dealt_stability_index(counts: Floats, deal: Deal) -> Floats:
    """`stability_index` of each deal: counts of documents (documents, bins) → (deals,)."""
    first = deal.sides @ counts
    return stability_index(first, counts.sum(axis=0) - first)


def largest_gap(values: Floats, deal: Deal) -> Floats:
    """The Kolmogorov-Smirnov distance of each deal: values (documents,) → (deals,).

    It is the largest difference of the two empirical distribution functions.
    """
    order = np.argsort(values, kind="stable")
    ordered, sides = values[order], deal.sides[:, order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # of equal values
    first = sides.cumsum(axis=1)[:, last] / deal.first
    second = (1 - sides).cumsum(axis=1)[:, last] / deal.second
    found: Floats = np.abs(first - second).max(axis=1)
    return found


def rise_of_means(sums: Floats, weights: Floats, deal: Deal) -> Floats:
    """By how much the weighted mean of the second side is higher: (documents,) → (deals,)."""
    one, two = deal.sides, 1 - deal.sides
    found: Floats = (two @ sums) / (two @ weights) - (one @ sums) / (one @ weights)
    return found


def mean_discrepancy(points: Floats, deal: Deal) -> Floats:
    """The squared maximum mean discrepancy of each deal: (documents, width) → (deals,).

    The unbiased estimate with a Gaussian kernel, whose width is the median distance of all points
    (Gretton et al., 2012, "A Kernel Two-Sample Test", equation 3). It is about 0 without drift, and
    may be slightly negative.
    """
    kernel = gaussian_kernel(points)
    np.fill_diagonal(kernel, 0)
    one, two = deal.sides, 1 - deal.sides
    n, m = deal.first, deal.second
    within_first = (one @ kernel * one).sum(axis=1)
    across = (one @ kernel * two).sum(axis=1)
    within_second = kernel.sum() - within_first - 2 * across
    found: Floats = (
        within_first / (n * (n - 1)) + within_second / (m * (m - 1)) - 2 * across / (n * m)
    )
    return found


def gaussian_kernel(points: Floats) -> Floats:
    """exp(-d² / 2s²) of all pairs, with s the median distance of different points."""
    squares = (points**2).sum(axis=1)
    apart = np.maximum(squares[:, None] + squares[None] - 2 * points @ points.T, 0)
    pairs = np.concatenate([row[number + 1 :] for number, row in enumerate(apart)])
    median = float(np.median(pairs)) or 1.0
    found: Floats = np.exp(-apart / (2 * median))
    return found


def quantile_edges(values: Floats, bins: int) -> Floats:
    """Inner edges of bins that hold about as many of some values each; edges may be equal."""
    found: Floats = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    return found


def one_hot(places: NDArray[np.int64], bins: int) -> Floats:
    """A row for each place, with a 1 at it: (documents,) → (documents, bins)."""
    found = np.zeros((len(places), bins))
    found[np.arange(len(places)), places] = 1
    return found
