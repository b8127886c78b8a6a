"""Calibration measures: by hand, in any order, and as scikit-learn and torchmetrics have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.evaluate.calibration_measures import Binned, aurc, brier, ece, risk_coverage

examples = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


def drawn(count: int = 500, classes: int = 4) -> tuple[Any, Any]:
    """Probabilities of classes and the right one, of a model that is too sure."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(count, classes)) * 3
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities, random.integers(0, classes, count)


def test_by_hand() -> None:
    assert ece([0.95, 0.95, 0.15], [True, False, False], bins=10) == pytest.approx(1.05 / 3)
    assert brier([0.5, 0.25, 0.25], 0) == pytest.approx(0.375)
    assert risk_coverage([0.9, 0.8, 0.7], [True, False, True]) == [
        [1 / 3, 0],
        [2 / 3, 1 / 2],
        [1, 1 / 3],
    ]
    assert aurc([0.9, 0.8, 0.7], [True, False, True]) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert aurc([0.7, 0.7], [True, False]) == pytest.approx(0.5)


@given(examples, st.randoms())
def test_the_order_changes_no_bit(found: list[tuple[float, bool]], random: Any) -> None:
    mixed = found.copy()
    random.shuffle(mixed)
    for measure in (ece, aurc, risk_coverage):
        assert measure(*zip(*found, strict=True)) == measure(*zip(*mixed, strict=True))


@given(examples)
def test_bounds(found: list[tuple[float, bool]]) -> None:
    confidence, right = zip(*found, strict=True)
    assert 0 <= ece(confidence, right) <= 1
    assert 0 <= aurc(confidence, right) <= 1
    assert risk_coverage(confidence, right)[-1] == pytest.approx([1, 1 - np.mean(right)])


def test_parts_add_up_to_the_whole() -> None:
    probabilities, labels = drawn()
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    binned = Binned(15)
    for few in np.array_split(np.arange(len(labels)), 7):
        binned.add(confidence[few], right[few])
    assert binned.ece == pytest.approx(ece(confidence, right), abs=1e-15)
    assert sum(count for _, _, count in binned.points) == len(labels)


def test_ece_is_that_of_torchmetrics() -> None:
    torch = pytest.importorskip("torch")
    calibration = pytest.importorskip("torchmetrics.functional.classification")
    probabilities, labels = drawn()
    expected = calibration.multiclass_calibration_error(
        torch.tensor(probabilities, dtype=torch.float64), torch.tensor(labels), 4, n_bins=15
    )
    found = ece(probabilities.max(1), probabilities.argmax(1) == labels, 15)
    assert found == pytest.approx(float(expected), abs=1e-6)  # its bounds of bins are float32


def test_brier_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    probabilities, labels = drawn()
    found = np.mean([brier(p, int(y)) for p, y in zip(probabilities, labels, strict=True)])
    expected = metrics.brier_score_loss(labels, probabilities, scale_by_half=False)
    assert found == pytest.approx(expected, abs=1e-14)
