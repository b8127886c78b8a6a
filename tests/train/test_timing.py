"""Where the time goes, by rank, and who is named as slow."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_runs import train

from manta.train.timing import Point, StepClock, StepTimes, Stragglers, as_row

STEP = 16 * 7
MOMENT = StepTimes(data=0.001, compute=0.020, communication=0.004, optimizer=0.002, rows=4, steps=5)


def test_the_phases_lie_between_the_points(monkeypatch) -> None:
    clock = StepClock(torch.device("cpu"), None)
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    for _ in range(2):
        # What lies between two steps, such as an evaluation, belongs to none.
        now += 100
        for point, after in zip(Point, (0, 1, 2, 4, 8, 16, 32), strict=True):
            now += after
            if point is not Point.END:
                clock.mark(point)
        clock.end(rows=3)
    assert clock.read() == StepTimes(1, 2 + 8, 4 + 16, 32, rows=3, steps=2)
    assert clock.read() == StepTimes()


def test_without_an_exchange_all_of_backward_is_computing(monkeypatch) -> None:
    clock = StepClock(torch.device("cpu"), None)
    ticks = iter(range(10))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    for point in (Point.WAITS, Point.HAS_BATCH, Point.COUNTS, Point.COUNTED, Point.EXCHANGED):
        clock.mark(point)
    clock.end(rows=1)
    assert clock.read() == StepTimes(1, 2, 1, 1, rows=1, steps=1)


def test_a_row_has_the_mean_of_the_ranks() -> None:
    row = as_row([MOMENT, replace(MOMENT, data=0.003)])
    assert row["time_data"] == pytest.approx(0.002)
    assert row["time_compute"] == pytest.approx(0.020)
    assert set(row) == {f"time_{n}" for n in ("data", "compute", "communication", "optimizer")}


def slow(seconds: float, **changes: Any) -> StepTimes:
    return replace(MOMENT, compute=seconds, **changes)


def observed(*ranks: StepTimes, readings: int = 6) -> list[str]:
    """What is said of the same times, read again and again."""
    stragglers = Stragglers([f"node-{rank}" for rank in range(len(ranks))])
    return [message for _ in range(readings) for message in stragglers.observe(ranks)]


def test_a_slow_rank_is_named_once() -> None:
    (said,) = observed(MOMENT, MOMENT, slow(0.030), MOMENT, readings=20)
    assert "rank 2 on node node-2 is slow" in said
    assert "30 ms a step, the others 20 ms" in said
    (said,) = observed(slow(0.030), MOMENT)
    assert "rank 0 on node node-0" in said


@pytest.mark.parametrize(
    ("ranks", "readings"),
    [
        ((MOMENT, slow(0.030)), 4),  # not yet for long
        ((slow(0.02, steps=1), slow(0.03, steps=1)), 19),
        ((MOMENT, slow(0.024)), 20),  # by less than a quarter
        ((slow(0.004), slow(0.008)), 20),  # by less than 5 ms
        ((MOMENT, slow(0.040, rows=8)), 20),  # it has more to do
        ((MOMENT, slow(0.021, rows=2)), 20),  # a step has a cost of its own
        ((MOMENT, slow(0.5, rows=0)), 20),  # it has nothing to do
        ((MOMENT,), 20),
    ],
)
def test_who_is_not_slow(ranks: tuple[StepTimes, ...], readings: int) -> None:
    assert observed(*ranks, readings=readings) == []


def test_a_pause_ends_a_streak() -> None:
    stragglers = Stragglers(["a", "b"])
    for _ in range(5):
        for _ in range(4):
            assert stragglers.observe([MOMENT, slow(0.1)]) == []
        assert stragglers.observe([MOMENT, MOMENT]) == []


@dataclass(frozen=True)
class SlowRank:
    """Makes the forward pass of one rank longer and keeps what is warned of."""

    rank: int
    seconds: float
    warnings: Path

    def __call__(self, engine: Any) -> None:
        if engine.ranks.rank == 0:
            handler = logging.FileHandler(self.warnings)
            handler.setLevel(logging.WARNING)
            logging.getLogger("manta").addHandler(handler)
        if engine.ranks.rank == self.rank:
            engine.trained.lm.register_forward_hook(lambda *_: time.sleep(self.seconds))


def test_a_slow_rank_in_a_group(checked, tmp_path) -> None:
    said = tmp_path / "said"
    run = checked({"schedule.horizon": STEP * 40, "schedule.batch": 8, "log.every": 4 * STEP})
    rows = [row for row in train(run, 2, fault=SlowRank(1, 0.06, said)) if "loss" in row]
    (line,) = said.read_text().splitlines()
    assert line.startswith("rank 1 on node ")
    late = rows[-1]
    # Rank 1 sleeps where it computes; rank 0 waits for it: each is half of the mean.
    assert late["time_compute"] > 0.03
    assert late["time_communication"] > 0.02
    total = sum(value for name, value in late.items() if name.startswith("time_"))
    seconds_a_step = late["batch_size"] * 16 / late["tokens_per_s"]
    assert 0.5 * seconds_a_step < total < 1.1 * seconds_a_step  # the rest is logging
