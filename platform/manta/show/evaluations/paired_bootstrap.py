"""Differences of two models over the same examples, with intervals by the paired bootstrap.

A metric is a ratio of two sums over examples. Examples are drawn with replacement, the same ones
for both models, and the metric of each draw is computed for both: the quantiles of the difference
are the interval (Efron and Tibshirani, 1993, "An Introduction to the Bootstrap", chapter 13). With
several differences each interval is wider, such that all of them together hold with the level
(Bonferroni). Draws are those of one seed: the same results give the same intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Verdict = Literal["better", "worse", "within noise", "too few examples", "differs", "the same"]
LEVEL, DRAWS, SEED = 0.95, 10_000, 0
# With fewer examples the quantiles say little.
FEWEST = 10
# Numbers of a block of draws that are in memory at a time.
BLOCK = 2_000_000


@dataclass(frozen=True)
class Paired:
    """Numerators and denominators of one metric, of the examples that both models have.

    Attributes:
        first: sums of the baseline, float64 (examples, 2).
        second: sums of the other model, float64 (examples, 2).
        better: direction in which the metric is better; None where neither is.
    """

    first: Floats
    second: Floats
    better: Literal["min", "max"] | None = None


@dataclass(frozen=True)
class PairedDifference:
    """How a metric differs.

    Attributes:
        first: value of the baseline.
        second: value of the other model.
        low: lower end of the interval of ``second - first``; None with too few examples.
        high: upper end of that interval.
        examples: number of examples that have the metric.
        won: number of examples on which the other model is better.
        lost: number of examples on which the other model is worse.
        verdict: whether the difference is more than noise.
    """

    first: float
    second: float
    low: float | None
    high: float | None
    examples: int
    won: int
    lost: int
    verdict: Verdict

    @property
    def change(self) -> float:
        """The difference ``second - first``."""
        return self.second - self.first


def differences(metrics: Sequence[Paired], tests: int | None = None) -> list[PairedDifference]:
    """How each of some metrics over the same examples differs.

    Args:
        metrics: sums of each metric; an example that lacks a metric has 0 in all four.
        tests: number of differences that are looked at together; by default that of `metrics`.
    """
    if not metrics:
        return []
    columns = np.concatenate([np.concatenate([m.first, m.second], axis=1) for m in metrics], axis=1)
    drawn = _drawn(columns)
    alpha = (1 - LEVEL) / (tests or len(metrics))
    return [
        _difference(one, drawn[:, 4 * index : 4 * index + 4], alpha)
        for index, one in enumerate(metrics)
    ]


def _difference(one: Paired, drawn: Floats, alpha: float) -> PairedDifference:
    there = (one.first[:, 1] != 0) & (one.second[:, 1] != 0)
    examples = int(there.sum())
    first, second = (_ratio(sums.sum(axis=0)[None])[0] for sums in (one.first, one.second))
    each = _ratio(one.second[there]) - _ratio(one.first[there])
    more, less = int((each > 0).sum()), int((each < 0).sum())
    won, lost = (less, more) if one.better == "min" else (more, less)
    low = high = None
    if examples >= FEWEST:
        change = _ratio(drawn[:, 2:]) - _ratio(drawn[:, :2])
        change = change[np.isfinite(change)]
        low, high = (float(q) for q in np.quantile(change, [alpha / 2, 1 - alpha / 2]))
    verdict = verdict_of(float(second - first), low, high, one.better)
    return PairedDifference(float(first), float(second), low, high, examples, won, lost, verdict)


def verdict_of(
    change: float, low: float | None, high: float | None, better: Literal["min", "max"] | None
) -> Verdict:
    """What a difference and its interval say."""
    if low is None or high is None:
        return "too few examples"
    if low == high == 0 == change:
        return "the same"
    if low <= 0 <= high:
        return "within noise"
    if better is None:
        return "differs"
    return "better" if (change > 0) == (better == "max") else "worse"


def _ratio(sums: Floats) -> Floats:
    """Numerators over denominators, (…, 2) → (…); NaN without a denominator."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = sums[..., 0] / sums[..., 1]
    return found


def _drawn(columns: Floats) -> Floats:
    """Sums of columns over draws of their rows: (examples, columns) → (DRAWS, columns)."""
    examples = len(columns)
    random = np.random.Generator(np.random.PCG64(SEED))
    block = max(1, min(DRAWS, BLOCK // max(1, examples)))
    found = []
    for first in range(0, DRAWS, block):
        draws = min(block, DRAWS - first)
        rows = random.integers(0, examples, (draws, examples))
        rows += np.arange(draws)[:, None] * examples
        counts = np.bincount(rows.ravel(), minlength=draws * examples)
        found.append(counts.reshape(draws, examples).astype(np.float64) @ columns)
    return np.concatenate(found)
