"""A cost as a fixed part and one in proportion to something, fitted to measurements. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np


def cost_line(amounts: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
    """The cost of a unit and the fixed cost, neither below 0, by least squares of relative errors.

    Relative, as a slow measurement is no more exact than a fast one. Measurements of one amount
    say nothing of a fixed part. Where a part would be below 0 it is 0, and the other is the median
    over all measurements.

    Args:
        amounts: the amounts that the variable cost is in proportion to, above 0.
        costs: cost of each amount, above 0.
    """
    x, y = np.array(amounts, dtype=float), np.array(costs, dtype=float)
    if np.ptp(x) == 0:
        return median((y / x).tolist()), 0.0
    slope, fixed = np.polyfit(x, y, 1, w=1 / y)
    if fixed < 0:
        return median((y / x).tolist()), 0.0
    if slope <= 0:
        return 0.0, median(y.tolist())
    return float(slope), float(fixed)
