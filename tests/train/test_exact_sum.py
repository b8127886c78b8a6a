"""Exact sums: the same to the bit in any order, and close to the true sum."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manta.parallel.exact_sum import QUANTA, Grid

numbers = st.floats(-30.0, 30.0, width=32)
units = st.sampled_from([0.1, 1.0, 8.0])


def total(grid: Grid, summands: list[torch.Tensor], groups: int = 1) -> torch.Tensor:
    """The sum of summands that are dealt out to some groups, each summed by itself."""
    sums = []
    for group in range(groups):
        part = torch.empty(summands[0].shape, dtype=torch.float64)
        grid.clear(part)
        for summand in summands[group::groups]:
            grid.add(part, summand)
        grid.end(part)
        sums.append(part)
    return sum(sums[1:], start=sums[0])


@given(st.lists(numbers, min_size=1, max_size=30), units, st.integers(1, 5), st.randoms())
def test_order_and_grouping_change_nothing(values, unit, groups, chance: random.Random) -> None:
    grid = Grid(unit)
    # Many that lie half way between two multiples of the quantum, where ties would be broken.
    halves = [grid.quantum * (round(value / grid.quantum) + 0.5) for value in values]
    summands = [torch.tensor([one, two]) for one, two in zip(values, halves, strict=True)]
    shuffled = chance.sample(summands, len(summands))
    assert torch.equal(total(grid, summands), total(grid, shuffled, groups))


@given(st.lists(numbers, min_size=1, max_size=30), units)
def test_the_error_is_half_a_quantum_for_each_summand(values, unit) -> None:
    grid = Grid(unit)
    found = total(grid, [torch.tensor([value]) for value in values]).item()
    values = [float(np.float32(value)) for value in values]
    # And the last bit by which a summand is moved away from zero.
    bound = len(values) * grid.quantum / 2 + 2.0**-52 * sum(map(abs, values))
    assert abs(found - math.fsum(values)) <= bound


def test_bf16_and_large_tensors_are_summed_alike() -> None:
    grid, generator = Grid(1.0), torch.Generator().manual_seed(1)
    summands = [torch.randn((300, 401), generator=generator).bfloat16() for _ in range(4)]
    found = total(grid, summands)
    assert torch.equal(found, total(grid, summands[::-1], 3))
    assert torch.allclose(found, sum(map(torch.Tensor.double, summands)), atol=4 / QUANTA)


@given(st.lists(st.floats(-8.0, 8.0, width=32), min_size=1, max_size=200), st.integers(1, 7))
def test_a_norm_does_not_depend_on_the_parts(values, count) -> None:
    grid, whole = Grid(1.0), torch.tensor(values)
    norm = grid.norm([whole], len(values))
    assert torch.equal(norm, grid.norm(whole.flip(0).chunk(count), len(values)))
    assert norm.item() == pytest.approx(math.sqrt(math.fsum(v * v for v in values)), rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, 2000.0], ids=["nan", "inf", "too large"])
def test_a_norm_beyond_the_grid_is_nan(value) -> None:
    assert Grid(1.0).norm([torch.tensor([1.0, value])], 2).isnan()


def test_small_elements_count_in_a_norm() -> None:
    """As those of a gradient over billions of weights: each square is far below the quantum."""
    values = torch.full((300_000,), 1e-7)
    assert Grid(1.0).norm([values], len(values)).item() == pytest.approx(
        1e-7 * math.sqrt(3e5), rel=1e-5
    )
