"""Rates that grow with the batch: the same curve, times the root of the batch."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from manta.config.schedule import ScheduleSection
from manta.recommend.stairs import batch_stairs, end_of_warmup, rate_stairs, rising
from manta.schedule import Schedule

HORIZON = 100_000
RATES = [
    1e-3,
    {"name": "wsd", "peak": 1e-3, "warmup": "5%", "decay": "20%"},
    {"name": "cosine", "peak": 1e-3, "warmup": "5%"},
    {"name": "inverse-sqrt", "peak": 1e-3, "warmup": "5%"},
]


def resolved(lr: object, batch: object = 8) -> Schedule:
    section = {"horizon": HORIZON, "lr": lr, "batch": batch}
    return Schedule.resolve(ScheduleSection.model_validate(section), 16)


@pytest.mark.parametrize("lr", RATES, ids=["constant", "wsd", "cosine", "inverse-sqrt"])
@given(tokens=st.integers(0, HORIZON - 1), change=st.integers(10_000, 90_000))
@example(tokens=80_312, change=10_000)  # where a decay by the root is steepest
@example(tokens=80_312, change=85_000)
def test_the_rate_is_the_base_times_the_root_of_the_batch(lr, tokens, change):
    base, stairs = resolved(lr), [(0, 8), (change, 32)]
    tuned = resolved(rate_stairs(base, stairs, 8, 0.5, 1.5), batch_stairs(stairs, HORIZON))
    times = 1.5 * (2 if tokens >= change else 1)
    # Of the peak; a curve that a stair cuts is written as straight pieces.
    assert tuned.lr(tokens) == pytest.approx(times * base.lr(tokens), abs=1e-2 * times * 1e-3)
    assert tuned.batch_size(tokens) == (32 if tokens >= change else 8)


def test_a_constant_batch_leaves_a_straight_schedule_as_it_is():
    base = resolved(RATES[1])
    written = rate_stairs(base, [(0, 8)], 8, 0.5)
    assert [segment.get("shape", "constant") for segment in written][:2] == ["linear", "constant"]
    assert resolved(written).lr(50_000) == 1e-3
    assert batch_stairs([(0, 8)], HORIZON) == 8


def test_stairs_beyond_a_shorter_horizon_are_left_out():
    assert batch_stairs([(0, 8), (500, 16)], 400) == 8
    assert batch_stairs([(0, 8), (100, 16), (200, 32)], 400) == [
        {"from": 8, "until": 100}, {"from": 16, "until": 200}, {"from": 32},
    ]  # fmt: skip


def test_where_the_warmup_ends():
    assert [end_of_warmup(resolved(lr)) for lr in RATES] == [0, 5_000, 5_000, 5_000]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_the_nearest_rising_values(values):
    found = rising(values)
    assert all(a <= b + 1e-12 for a, b in pairwise(found))
    assert sum(found) == pytest.approx(sum(values))
    if values == sorted(values):
        assert found == values
