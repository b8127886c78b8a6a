"""Time and money of a schedule on a number of devices, by step times that were measured.

A step takes a fixed time and a time for each sample that a device has of it; the time of the
exchange between devices is in neither, as it depends on the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from manta.recommend.measured import Saving, StepCost
from manta.record.cost_line import cost_line
from manta.schedule import Schedule

# Rows of a run that are left out, as what is new in them takes longer.
FIRST_ROWS = 2
POWERS = (1, 2, 4, 8, 16, 32, 64)


def step_times(runs: Iterable[Iterable[Mapping[str, Any]]], seq_len: int) -> StepCost | None:
    """Step times of a device by the rows of runs with unlike batch sizes; None without rows.

    Args:
        runs: rows of metrics of each run.
        seq_len: tokens of a sample.
    """
    seconds: dict[float, list[float]] = {}
    for rows in runs:
        timed = [row for row in rows if row.get("tokens_per_s")]
        for before, row in zip(timed[FIRST_ROWS:], timed[FIRST_ROWS + 1 :], strict=False):
            if before["batch_size"] == row["batch_size"]:
                share = -(-row["batch_size"] // row["world_size"])
                taken = row["batch_size"] * seq_len / row["tokens_per_s"]
                seconds.setdefault(share, []).append(taken)
    if not seconds:
        return None
    shares = sorted(seconds)
    times = [median(seconds[share]) for share in shares]
    per_sample, fixed = cost_line(shares, times)
    return StepCost(fixed=fixed, per_sample=per_sample)


def savings(
    constant: Schedule,
    tuned: Schedule,
    times: StepCost,
    devices: Sequence[int] | None,
    price: float | None,
) -> list[Saving]:
    """Time and money with two schedules, by number of devices.

    Args:
        constant: the schedule with the constant batch.
        tuned: the schedule whose batch grows.
        times: step times of a device.
        devices: numbers of devices; None for powers of two that the larger batch can use.
        price: price of a device for an hour; None if it isn't known.
    """
    most = max(plateau.batch for plateau in tuned.plateaus)
    found = []
    for count in devices or [power for power in POWERS if power <= max(most, 1)]:
        hours = [_hours(schedule, times, count) for schedule in (constant, tuned)]
        money = [None if price is None else each * count * price for each in hours]
        found.append(
            Saving(
                devices=count,
                constant_hours=hours[0],
                tuned_hours=hours[1],
                constant_money=money[0],
                tuned_money=money[1],
            )
        )
    return found


def _hours(schedule: Schedule, times: StepCost, devices: int) -> float:
    plateaus = schedule.plateaus
    return sum(p.steps * times.seconds(p.batch, devices) for p in plateaus) / 3600
