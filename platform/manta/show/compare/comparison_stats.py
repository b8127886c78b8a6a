"""The statistics of a comparison: means over seeds, differences, importance of parameters.

Pure functions of numbers. Seed noise is the spread of trials that differ only in the seed. With
three or more seeds a configuration's own spread is used; with fewer, the pooled spread of all
configurations with more than one seed, since two values hardly tell their spread.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manta.show.compare import t_distribution

CONFIDENCE = 0.95
ENOUGH_SEEDS = 3
# A numeric parameter with more values than this is cut into this many groups of equal size.
MOST_GROUPS = 4


@dataclass(frozen=True)
class Noise:
    """An estimated variance and its degrees of freedom."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` seeds. `half` is half the width of its 95 % t-interval.

    `half` is None if no configuration has two seeds: the noise is then unknown.
    """

    mean: float
    half: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """The difference of two means, and half the width of its 95 % t-interval."""

    gap: float
    half: float | None

    @property
    def within_noise(self) -> bool | None:
        """Whether the interval contains zero; None if the noise is unknown."""
        return None if self.half is None else abs(self.gap) <= self.half


@dataclass(frozen=True)
class Importance:
    """How much of the metric's variance one parameter explains.

    Attributes:
        share: the explained share of the metric's variance, 0 to 1.
        groups: the parameter's values (or ranges), in order, each with the metric's mean.
    """

    key: str
    share: float
    groups: tuple[tuple[str, float], ...]


def pooled_noise(groups: Sequence[Sequence[float]]) -> Noise | None:
    """The pooled variance within groups of seeds; None if no group has two seeds."""
    freedom = sum(len(values) - 1 for values in groups if values)
    if freedom < 1:
        return None
    squares = sum(float(np.var(values)) * len(values) for values in groups if values)
    return Noise(squares / freedom, freedom)


def noise_of(values: Sequence[float], pooled: Noise | None) -> Noise | None:
    """The seed noise of one configuration: its own with three or more seeds, else pooled."""
    return pooled_noise([values]) if len(values) >= ENOUGH_SEEDS else pooled


def estimate(values: Sequence[float], pooled: Noise | None) -> Estimate:
    """The mean of `values` and its confidence interval.

    Args:
        values: the metric, one value for each seed.
        pooled: the pooled noise of all configurations; None if unknown.
    """
    noise = noise_of(values, pooled)
    half = None if noise is None else _half(math.sqrt(noise.variance / len(values)), noise.freedom)
    return Estimate(float(np.mean(values)), half, len(values))


def difference(first: Sequence[float], second: Sequence[float], pooled: Noise | None) -> Difference:
    """How far the mean of `second` lies above the mean of `first`.

    Welch's interval if both have three or more seeds; else Student's, with the
    pooled variance.
    """
    gap = float(np.mean(second)) - float(np.mean(first))
    if min(len(first), len(second)) < ENOUGH_SEEDS:
        if pooled is None:
            return Difference(gap, None)
        spread = math.sqrt(pooled.variance * (1 / len(first) + 1 / len(second)))
        return Difference(gap, _half(spread, pooled.freedom))
    one, other = (float(np.var(values, ddof=1)) / len(values) for values in (first, second))
    if one + other == 0:
        return Difference(gap, 0.0)
    # Welch-Satterthwaite, computed with shares of the sum so that small variances don't underflow.
    share = one / (one + other)
    freedom = 1 / (share**2 / (len(first) - 1) + (1 - share) ** 2 / (len(second) - 1))
    return Difference(gap, _half(math.sqrt(one + other), freedom))


def _half(spread: float, freedom: float) -> float:
    return t_distribution.quantile((1 + CONFIDENCE) / 2, freedom) * spread


def value_at(xs: Sequence[float], values: Sequence[float], x: float) -> float | None:
    """A curve's value at `x`, interpolated linearly; None outside of the curve."""
    if not len(xs) or not xs[0] <= x <= xs[-1]:
        return None
    return float(np.interp(x, xs, values))


def reached_by_all(curves: Sequence[Sequence[float]]) -> float | None:
    """The last x that every curve covers, given each curve's x values; None if there is none."""
    if not curves or not all(len(xs) for xs in curves):
        return None
    last = min(xs[-1] for xs in curves)
    return last if last >= max(xs[0] for xs in curves) else None


def importance(rows: Sequence[tuple[Mapping[str, Any], float]]) -> list[Importance]:
    """The share of the metric's variance that each parameter explains alone, largest first.

    One-way analysis of variance for each parameter: trials are grouped by its value, and the
    share is epsilon squared (Kelley, 1935), which is eta squared less what groups of this size
    would explain by chance: 0 for a parameter without effect, 1 for one that decides
    everything. A numeric parameter with more than four values is cut into four ranges with about
    equally many trials. Effects that parameters have only together are in no share, and if they
    were not varied independently of each other, one may take the credit of another.

    Args:
        rows: the parameters and the metric of each trial.
    """
    found = []
    for key in dict.fromkeys(key for params, _ in rows for key in params):
        groups = _grouped([(params.get(key), value) for params, value in rows])
        share = explained([values for _, values in groups])
        if share is not None:
            means = tuple((name, float(np.mean(values))) for name, values in groups)
            found.append(Importance(key, share, means))
    return sorted(found, key=lambda one: -one.share)


def explained(groups: Sequence[Sequence[float]]) -> float | None:
    """The share of the variance that lies between groups: epsilon squared, not below 0.

    None if there is only one group, no spread, or no group of two.
    """
    everything = np.concatenate([np.asarray(values, dtype=np.float64) for values in groups])
    total = float(((everything - everything.mean()) ** 2).sum())
    within = pooled_noise(groups)
    # Differences of the size of rounding errors are no spread.
    scale = float(np.abs(everything).max(initial=0.0))
    if len(groups) < 2 or within is None or total <= len(everything) * (1e-12 * scale) ** 2:
        return None
    between = total - within.variance * within.freedom
    return min(1.0, max(0.0, (between - (len(groups) - 1) * within.variance) / total))


def _grouped(pairs: Sequence[tuple[Any, float]]) -> list[tuple[str, list[float]]]:
    """Metric values grouped by parameter value or range; groups are named and in order."""
    values = [value for value, _ in pairs]
    numeric = all(is_number(value) for value in values)
    if numeric and len(set(values)) > MOST_GROUPS:
        return _ranges(pairs)
    groups: dict[str, tuple[Any, list[float]]] = {}
    for value, metric in pairs:
        name = json.dumps(value, sort_keys=True)
        groups.setdefault(name, (value, []))[1].append(metric)
    order = (lambda name: groups[name][0]) if numeric else (lambda name: name)
    return [(short(groups[name][0]), groups[name][1]) for name in sorted(groups, key=order)]


def _ranges(pairs: Sequence[tuple[Any, float]]) -> list[tuple[str, list[float]]]:
    numbers = np.array([value for value, _ in pairs], dtype=np.float64)
    edges = np.quantile(numbers, [part / MOST_GROUPS for part in range(1, MOST_GROUPS)])
    bins = np.searchsorted(edges, numbers, side="left")
    groups = []
    for bin_ in np.unique(bins):
        rows = [row for row, at in enumerate(bins) if at == bin_]
        low, high = min(pairs[row][0] for row in rows), max(pairs[row][0] for row in rows)
        name = short(low) if low == high else f"{short(low)} to {short(high)}"
        groups.append((name, [pairs[row][1] for row in rows]))
    return groups


def is_number(value: Any) -> bool:
    """Whether `value` is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def short(value: Any) -> str:
    """A parameter's value as a short text."""
    if value is None or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        named = [short(value["name"])] if "name" in value else []
        rest = [
            f"{key} {short(item)}"
            for key, item in value.items()
            if key != "name" and item is not None
        ]
        return " ".join([*named, *rest])
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(short, value)) + "]"
    return str(value)
