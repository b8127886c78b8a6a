"""Savings by step times, the confirmation, and the micro-batch to take."""

from __future__ import annotations

import pytest

from manta.config.schedule import ScheduleSection
from manta.recommend.confirmation import confirmed
from manta.recommend.largest_pass import chosen
from manta.recommend.measured import PassTried
from manta.recommend.savings import savings, step_times
from manta.schedule import Schedule


def rows_at(batch: int, fixed: float, per_sample: float) -> list[dict[str, float]]:
    seconds = fixed + per_sample * batch
    row = {"batch_size": batch, "world_size": 1, "tokens_per_s": batch * 16 / seconds}
    return [{**row, "step": step} for step in range(8)]


def test_step_times_are_a_fixed_part_and_one_for_each_sample() -> None:
    times = step_times([rows_at(batch, 0.5, 0.01) for batch in (8, 16, 64)], seq_len=16)
    assert times is not None
    assert times.fixed == pytest.approx(0.5)
    assert times.per_sample == pytest.approx(0.01)
    assert times.seconds(100, devices=8) == pytest.approx(0.5 + 0.13)
    assert step_times([[{"step": 1, "val_loss": 3.0}]], 16) is None


def test_what_fewer_steps_save_by_devices() -> None:
    both = [
        Schedule.resolve(ScheduleSection(horizon=16_000, lr=1e-3, batch=batch), 16)
        for batch in (10, 40)
    ]
    times = step_times([rows_at(batch, 3.6, 0.36) for batch in (8, 16, 64)], seq_len=16)
    assert times is not None
    one, four = savings(both[0], both[1], times, [1, 4], price=2.0)
    assert one.constant_hours == pytest.approx(100 * 7.2 / 3600)
    assert one.tuned_hours == pytest.approx(25 * 18 / 3600)
    assert four.tuned_hours == pytest.approx(25 * 7.2 / 3600)
    assert four.tuned_money == pytest.approx(2 * 4 * four.tuned_hours)
    assert savings(both[0], both[1], times, None, None)[-1].devices == 32


def test_a_difference_is_told_from_noise_by_its_seeds() -> None:
    same = confirmed([3.0, 3.1, 3.2], [3.01, 3.09, 3.2], (100, 50))
    assert same.verdict.startswith("within noise")
    assert "50 steps instead of 100" in same.verdict
    worse = confirmed([3.0, 3.1, 3.2], [3.1, 3.2, 3.301], (100, 50))
    assert worse.verdict.startswith("worse: +0.1003")
    assert worse.gap is not None
    assert worse.gap.low is not None
    assert worse.gap.low > 0.09
    lost = confirmed([3.0, 3.1], [3.0, None], (100, 50))
    assert lost.verdict.startswith("diverged: 0 runs of the constant batch, 1 of")


def test_the_smallest_micro_batch_that_is_as_fast_is_taken() -> None:
    tried = [
        PassTried(rows=8, fits=True, samples_per_s=50),
        PassTried(rows=16, fits=True, samples_per_s=98),
        PassTried(rows=32, fits=True, samples_per_s=100),
        PassTried(rows=64, fits=False),
    ]
    found = chosen(tried)
    assert (found.largest, found.recommended) == (32, 16)
