"""Student's t distribution, as far as confidence intervals need it, without SciPy."""

from __future__ import annotations

import math
from functools import lru_cache

TINY = 1e-300
ACCURATE = 1e-14


def cumulative(t: float, freedom: float) -> float:
    """The probability of a value below `t`, with `freedom` degrees of freedom."""
    square = t * t
    total = freedom + square
    within = _incomplete_beta(0.5, freedom / 2, square / total, freedom / total)
    return 0.5 + math.copysign(within, t) / 2


@lru_cache(maxsize=1024)
def quantile(probability: float, freedom: float) -> float:
    """The value below which a share `probability` (above one half) lies.

    By bisection, which is fast enough for the few calls of a comparison.
    """
    low, high = 0.0, 2.0
    while cumulative(high, freedom) < probability:
        low, high = high, high * 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if cumulative(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b) (Abramowitz & Stegun 26.5.8).

    `rest` is 1 - x, passed separately so that a small value keeps its precision.
    """
    if x <= 0 or rest <= 0:
        return float(x > 0)
    if x > (a + 1) / (a + b + 2):  # the fraction converges slowly here: use the symmetry
        return 1 - _incomplete_beta(b, a, rest, x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    )
    return front / (a * _fraction(a, b, x))


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    value, c, d = 1.0, 1.0, 0.0
    for step in range(1, 1000):
        half, odd = divmod(step, 2)
        if odd:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        d = 1 / _not_zero(1 + term * d)
        c = _not_zero(1 + term / c)
        value *= c * d
        if abs(c * d - 1) < ACCURATE:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY
