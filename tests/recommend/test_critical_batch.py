"""The critical batch: found on losses of a known law; forks share their trunk to the step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.config import ConfigError
from manta.config.schedule import ScheduleSection
from manta.recommend.critical_batch import Trunk, critical_at, critical_sizes, forks_of
from manta.recommend.measured import SizeLosses
from manta.schedule import Schedule
from manta.schedule.sharing import shared_steps

SIZES = [8, 16, 32, 64]


def losses_of(critical: float, depth: int = 1000, seeds: int = 2) -> list[SizeLosses]:
    """Losses that are flat up to a size, and rise by 0.1 with each doubling beyond it."""
    return [
        SizeLosses(
            depth=depth,
            size=size,
            losses=[3 + n + max(0.0, 0.1 * math.log2(size / critical)) for n in range(seeds)],
        )
        for size in SIZES
    ]


@given(st.floats(9, 60))
def test_the_size_is_found_between_measured_ones(critical: float) -> None:
    found = critical_at(losses_of(critical), tolerance=1e-6)
    below = max(size for size in SIZES if size <= critical)
    assert below <= found.size.value <= min(2 * below, 64) * 1.01
    assert not found.at_least


def test_what_a_tolerance_costs_is_interpolated_by_the_logarithm() -> None:
    losses = [
        SizeLosses(depth=1, size=s, losses=[x])
        for s, x in zip(SIZES, (3, 3, 3.02, 3.2), strict=True)
    ]
    found = critical_at(losses, tolerance=0.01)
    assert found.size.value == pytest.approx(16 * 2**0.5, rel=0.01)
    assert found.size.low is None, "one seed knows no noise"


def test_sizes_that_are_all_good_or_all_bad_are_told() -> None:
    good = critical_sizes(losses_of(1000), tolerance=0.01, base=8)
    assert good.at[0].at_least
    assert good.at[0].size.value == 64
    assert "larger critical.sizes" in good.notes[0]
    bad = critical_sizes(losses_of(1), tolerance=0.0001, base=16)
    assert not bad.at[0].at_least
    assert bad.stairs == [(0, 8)], "the first depth asks for less than the base's size"


def test_a_fork_that_diverged_is_beyond_the_critical_size() -> None:
    losses = losses_of(1000)
    losses[3] = SizeLosses(depth=1000, size=64, losses=[None, 3.0])
    found = critical_at(losses, tolerance=0.01)
    assert found.size.value == 32
    assert not found.at_least


def test_batches_grow_at_depths_and_never_shrink() -> None:
    deep = [*losses_of(1000, 100), *losses_of(16, 200), *losses_of(33, 400)]
    found = critical_sizes(deep, tolerance=1e-4, base=8)
    sizes = [size for _, size in found.stairs]
    assert sizes == sorted(sizes)
    assert found.stairs[0] == (0, 8)
    assert all(size in SIZES for size in sizes)


def test_forks_share_their_trunk_and_end_at_equal_tokens() -> None:
    trunk = Trunk(rate=0.01, warmup=640, size=8, seq_len=16, exponent=0.5)
    forks = forks_of(trunk, [1000, 3000], SIZES, tokens=4096)
    schedules = [
        Schedule.resolve(ScheduleSection.model_validate(fork.schedule), 16) for fork in forks
    ]
    for fork, schedule in zip(forks, schedules, strict=True):
        assert fork.depth % 128 == 0
        assert schedule.positions * 16 == fork.depth + 4096
        assert schedule.lr(fork.depth + 1) == pytest.approx(0.01 * (fork.size / 8) ** 0.5)
        assert shared_steps(schedule, schedules[4]) >= min(fork.depth, forks[4].depth) // 128
    assert shared_steps(schedules[0], schedules[4]) == schedules[0].steps, "the trunk itself"


def test_forks_that_say_nothing_are_refused() -> None:
    trunk = Trunk(rate=0.01, warmup=640, size=8, seq_len=16, exponent=0.5)
    with pytest.raises(ConfigError, match=r"critical\.tokens = 1K: a batch of 64 .* to 4096"):
        forks_of(trunk, [1000], SIZES, tokens=1000)
    with pytest.raises(ConfigError, match=r"critical\.depths: 500 tokens are within the warmup"):
        forks_of(trunk, [500], SIZES, tokens=4096)
