"""Calibration and selective prediction, from how sure a model was and whether it was right.

All measures are the same in any order of the examples: sums are exact, and examples with the same
confidence count alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BINS = 15


class Binned:
    """Confidences in bins of equal width, and how often the model was right in each.

    Args:
        bins: number of bins over [0, 1]; a confidence on a bound between two is in the upper one.
    """

    def __init__(self, bins: int):
        self._bins = bins
        self._counts = np.zeros(bins, np.int64)
        self._right = np.zeros(bins, np.int64)
        self._sums: list[list[float]] = [[] for _ in range(bins)]

    def add(self, confidence: Floats, right: NDArray[np.bool_]) -> None:
        """Add examples: how sure the model was, from 0 to 1, and whether it was right."""
        bounds = np.linspace(0, 1, self._bins + 1)
        place = np.clip(np.searchsorted(bounds, confidence, "right") - 1, 0, self._bins - 1)
        self._counts += np.bincount(place, minlength=self._bins)
        self._right += np.bincount(place[right], minlength=self._bins)
        for one in np.unique(place):
            self._sums[one].append(math.fsum(confidence[place == one].tolist()))

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of confidence and accuracy, bin by bin.

        Guo et al. (2017), "On Calibration of Modern Neural Networks", equation 5.
        """
        total = int(self._counts.sum())
        if not total:
            return 0.0
        gaps = (abs(r - math.fsum(s)) for r, s in zip(self._right, self._sums, strict=True))
        return math.fsum(float(gap) for gap in gaps) / total

    @property
    def points(self) -> list[list[float]]:
        """The reliability diagram: mean confidence, accuracy and examples of each bin with some."""
        return [
            [math.fsum(sums) / int(count), int(right) / int(count), int(count)]
            for count, right, sums in zip(self._counts, self._right, self._sums, strict=True)
            if count
        ]


def ece(confidence: Sequence[float], right: Sequence[bool], bins: int = BINS) -> float:
    """Expected calibration error; see `Binned.ece`."""
    binned = Binned(bins)
    binned.add(np.asarray(confidence, np.float64), np.asarray(right, bool))
    return binned.ece


def brier(probabilities: Sequence[float], right: int) -> float:
    """The squared error of all classes' probabilities, of one example: from 0 to 2.

    Brier (1950), "Verification of Forecasts Expressed in Terms of Probability".
    """
    return math.fsum((p - (index == right)) ** 2 for index, p in enumerate(probabilities))


def risk_coverage(confidence: Sequence[float], right: Sequence[bool]) -> list[list[float]]:
    """Share of the examples answered, the surest first, and the share of these that are wrong.

    Examples of one confidence are answered together, each with their mean error.
    """
    order = sorted(zip(confidence, right, strict=True), key=lambda one: -one[0])
    points, answered, wrong = list[list[float]](), 0, 0.0
    for _, same in groupby(order, key=lambda one: one[0]):
        errors = [not is_right for _, is_right in same]
        share = sum(errors) / len(errors)
        for _ in errors:
            answered += 1
            wrong += share
            points.append([answered / len(order), wrong / answered])
    return points


def aurc(confidence: Sequence[float], right: Sequence[bool]) -> float:
    """The mean of the selective risk over all coverages; 0 is best.

    Geifman et al. (2019), "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers".
    """
    points = risk_coverage(confidence, right)
    return math.fsum(risk for _, risk in points) / len(points) if points else 0.0
