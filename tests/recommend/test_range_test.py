"""The range test: rates are found on losses of a known law, and the runs share the trunk."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.config import ConfigError
from manta.config.schedule import ScheduleSection
from manta.recommend.measured import RampRow, RateLosses
from manta.recommend.range_test import DRIFT, rate_points, recommend_rate, smoothed_ramp
from manta.schedule import Schedule
from manta.schedule.sharing import shared_steps

RATES = [2.0**power for power in range(-12, -5)]


def losses_around(best: float, tokens: int = 1000, curve: float = 0.05) -> list[RateLosses]:
    """Losses whose parabola over log(rate) is lowest at `best`."""
    return [
        RateLosses(rate=r, tokens=tokens, losses=[3 + curve * math.log(r / best) ** 2])
        for r in RATES
    ]


@given(st.floats(RATES[1] * 1.01, RATES[-2] * 0.99))
def test_the_lowest_point_of_a_parabola_is_found_between_rates(best: float) -> None:
    found = recommend_rate(losses_around(best), horizon=1000)
    assert found.best.value == pytest.approx(best, rel=0.01)
    assert found.recommended.value == found.best.value, "the run is as long as the test"
    assert found.best.low < best < found.best.high  # type: ignore[operator]
    assert not found.notes


def test_the_recommended_rate_falls_with_the_length_of_the_run() -> None:
    found = recommend_rate(losses_around(2.0**-9), horizon=16_000)
    assert found.recommended.value == pytest.approx(2.0**-9 * 16**DRIFT, rel=0.01)


def test_the_drift_between_two_lengths_is_told() -> None:
    both = losses_around(2.0**-8, 500) + losses_around(2.0**-9, 1000)
    assert recommend_rate(both, 1000).drift == pytest.approx(-1, abs=0.02)


def test_a_valley_that_goes_on_beyond_the_rates_is_told() -> None:
    for best, side in ((RATES[0] / 8, "lower"), (RATES[-1] * 8, "higher")):
        found = recommend_rate(losses_around(best), horizon=1000)
        assert side in found.notes[0]
        assert found.best.value == pytest.approx(RATES[0] if side == "lower" else RATES[-1], 0.01)


def test_the_edge_is_the_lowest_rate_that_broke_and_is_never_recommended() -> None:
    losses = losses_around(RATES[-1])
    broken = RateLosses(rate=RATES[-2], tokens=1000, losses=[], diverged=1)
    risen = RateLosses(rate=RATES[-1], tokens=1000, losses=[9.0])
    ramp = [RampRow(rate=rate, loss=4.0) for rate in RATES]
    found = recommend_rate([*losses[:-2], broken, risen], 1000, ramp)
    assert found.edge == RATES[-2]
    assert found.best.value == pytest.approx(RATES[-3], 0.01)
    alone = recommend_rate([*losses[:-1], risen], 1000, ramp)
    assert alone.edge == RATES[-1], "it ended higher than the trunk was at this rate"


def test_no_rate_is_recommended_where_all_diverged() -> None:
    lost = [RateLosses(rate=rate, tokens=1000, losses=[], diverged=2) for rate in RATES]
    with pytest.raises(ConfigError, match=r"range\.rates: training diverged at every rate"):
        recommend_rate(lost, 1000)


def test_runs_share_the_trunk_up_to_the_lower_of_their_rates_and_all_but_the_decay() -> None:
    points = rate_points(RATES, 64_000, batch=4, seq_len=16)
    schedules = {
        (p.rate, p.tokens): Schedule.resolve(ScheduleSection.model_validate(p.schedule), 16)
        for p in points
    }
    step = int(32_000 * 0.25 / len(RATES)) // 64
    for index, rate in enumerate(RATES):
        long, short = schedules[rate, 64_000], schedules[rate, 32_000]
        assert long.lr(40_000) == short.lr(20_000) == rate
        assert shared_steps(long, short) == int(32_000 * 0.8) // 64
        higher = RATES[index + 1 :]
        for other in higher:
            shared = shared_steps(long, schedules[other, 64_000])
            assert shared == step * (index + 1)
    assert len({p.name for p in points}) == len(points)


def test_a_test_that_is_too_short_is_refused_with_the_length_that_would_do() -> None:
    with pytest.raises(ConfigError, match=r"at least 3584 tokens") as refused:
        rate_points(RATES, 1000, batch=4, seq_len=16)
    assert "range.tokens = 1K" in str(refused.value)
    rate_points(RATES, 3584, batch=4, seq_len=16)


def test_the_ramp_is_smoothed_and_ends_with_the_trunk() -> None:
    rows = [{"tokens": n, "lr": n / 100, "loss": 3.0} for n in range(1, 9)]
    rows += [{"tokens": 9, "lr": 1.0, "val_loss": 2.0}, {"tokens": 9, "lr": 1.0, "loss": math.nan}]
    ramp = smoothed_ramp(rows, end=6)
    assert [row.rate for row in ramp] == [n / 100 for n in range(1, 7)]
    assert all(row.loss == pytest.approx(3.0) for row in ramp)
