"""The gradient noise scale, from norms that follow its law."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.record.noise_scale import FEWEST, NoiseScale


def row(gradient: float, noise: float, part: float = 4, whole: int = 32) -> dict[str, float]:
    """A row whose squared norms are those expected of batches of `part` and `whole` samples."""
    small, large = (math.sqrt(gradient + noise / size) for size in (part, whole))
    return {
        "grad_norm_pass": small,
        "pass_samples": part,
        "grad_norm": large,
        "batch_size": whole,
    }


@given(st.floats(0.01, 10), st.floats(0.01, 1000))
def test_it_is_the_quotient_of_noise_and_gradient(gradient: float, noise: float) -> None:
    scale = NoiseScale()
    found = [scale.after(row(gradient, noise)) for _ in range(FEWEST)]
    assert found[:-1] == [None] * (FEWEST - 1)
    assert found[-1] == pytest.approx(noise / gradient, rel=1e-6)


def test_means_are_taken_before_the_quotient() -> None:
    """The mean of quotients would be far off where some steps have hardly any gradient."""
    scale, found = NoiseScale(), None
    for step in range(400):
        found = scale.after(row(1e-6 if step % 2 else 2.0, 100))
    assert found == pytest.approx(100, rel=0.02)


def test_it_is_unknown_without_norms_of_passes_and_where_noise_hides_the_gradient() -> None:
    scale = NoiseScale()
    whole = {"grad_norm": 1.0, "batch_size": 8}
    beside = {**whole, "grad_norm_pass": 1.0, "pass_samples": 8}
    hidden = {**whole, "grad_norm_pass": 10.0, "pass_samples": 1}
    assert [scale.after(each) for each in [whole, beside] * 20] == [None] * 40
    assert [scale.after(hidden) for _ in range(20)] == [None] * 20
