"""The range test of the learning rate: what it trains, and what its losses say.

One trunk runs through the rates: after a linear start each `step` tokens the rate grows to the next
one, geometrically. That is the range test of Smith (2017, arXiv:1506.01186), whose training loss
shows where training breaks. Its loss can't choose a rate: it is that of the rates before, and of a
rate that has had no time. So at each rate a fork leaves the trunk and stays there, and decays at
the end, as runs do; half as long too, which shares all but the decay (Hägele et al., 2024,
arXiv:2405.18392). Without the decay, short runs favour rates that are too low (Wu et al., 2018,
arXiv:1803.02021); the best rate falls with the length of a run (Bjorck et al., 2024,
arXiv:2409.19913), which the two lengths show and `DRIFT` carries on to the whole run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from manta.config.errors import ConfigError
from manta.config.units import format_tokens
from manta.recommend.measured import Interval, RampRow, RangeFound, RateLosses
from manta.record.number_format import significant
from manta.show.compare.comparison_stats import estimate, pooled_noise

# Share of a test in which the trunk passes all rates, and share of a run that is its decay.
RAMP, DECAY = 0.25, 0.2
LENGTHS = (2, 1)  # divisors of the test's tokens
# Without rates of the user's own: factors of the base's highest rate.
FACTORS = tuple(2.0**power for power in range(-3, 4))
# Of log(best rate) over log(tokens): Bjorck et al. found 0.32 at one batch size.
DRIFT = -0.32
# Nats that a rate may be worse than the best one to count as equally good, if seeds don't say more.
LEAST_TOLERANCE = 0.01
SMOOTHING = 0.9


@dataclass(frozen=True)
class RatePoint:
    """One run of the test.

    Attributes:
        rate: the rate that the run stays at.
        tokens: length of the run.
        schedule: section `schedule` of the run's config.
    """

    rate: float
    tokens: int
    schedule: dict[str, Any]

    @property
    def name(self) -> str:
        """The run, for people; no other run of the test has the same."""
        return f"rate {self.rate:.3g} for {format_tokens(self.tokens)}"


def default_rates(peak: float) -> list[float]:
    """Rates around a base's highest one."""
    return [significant(peak * factor, 4) for factor in FACTORS]


def rate_points(rates: Sequence[float], tokens: int, batch: int, seq_len: int) -> list[RatePoint]:
    """The runs of a test.

    Args:
        rates: the rates, growing.
        tokens: length of the longest run at each rate.
        batch: samples of a step.
        seq_len: tokens of a sample.

    Raises:
        ConfigError: if the trunk would have less than a step at each rate.
    """
    update = batch * seq_len
    step = int(tokens // LENGTHS[0] * RAMP / len(rates)) // update * update
    if not step:
        least = math.ceil(batch * seq_len * len(rates) / RAMP) * LENGTHS[0]
        raise ConfigError(
            f"range.tokens = {format_tokens(tokens)}: {len(rates)} rates need at least "
            f"{format_tokens(least)} tokens, for a step at each; raise it, or give fewer "
            "range.rates"
        )
    lengths = [tokens // part for part in LENGTHS]
    return [
        RatePoint(rate, length, _schedule(rates[: index + 1], step, length, batch))
        for index, rate in enumerate(rates)
        for length in lengths
    ]


def _schedule(way: Sequence[float], step: int, length: int, batch: int) -> dict[str, Any]:
    """The schedule of a run that leaves the trunk at the last rate of `way`."""
    lr: list[dict[str, Any]] = [{"shape": "linear", "from": 0, "to": way[0], "until": step}]
    for number, (before, rate) in enumerate(pairwise(way), start=2):
        lr.append({"shape": "exponential", "from": before, "to": rate, "until": step * number})
    lr.append({"from": way[-1], "until": length - int(length * DECAY)})
    lr.append({"shape": "linear", "to": 0})
    return {"horizon": length, "lr": lr, "batch": batch}


def smoothed_ramp(rows: Sequence[Mapping[str, Any]], end: int) -> list[RampRow]:
    """The trunk's training loss by rate, with a mean that weighs older rows ever less.

    Args:
        rows: rows of metrics of the run at the highest rate.
        end: tokens at which the trunk ends.
    """
    found, mean, weight = list[RampRow](), 0.0, 0.0
    for row in rows:
        loss = row.get("loss")
        if not isinstance(loss, int | float) or not math.isfinite(loss) or row["tokens"] > end:
            continue
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        found.append(RampRow(rate=row["lr"], loss=mean / weight))
    return found


def recommend_rate(
    losses: Sequence[RateLosses], horizon: int, ramp: Sequence[RampRow] = ()
) -> RangeFound:
    """The rate for a run of `horizon` tokens, by losses of short runs.

    Raises:
        ConfigError: if no rate can be recommended, as all diverged.
    """
    longest = max(each.tokens for each in losses)
    edge = min((each.rate for each in losses if each.diverged or _rose(each, ramp)), default=None)
    whole = [each for each in losses if edge is None or each.rate < edge]
    by_length = {
        length: sorted((each for each in whole if each.tokens == length), key=lambda e: e.rate)
        for length in sorted({each.tokens for each in losses})
    }
    if not by_length[longest]:
        raise ConfigError("range.rates: training diverged at every rate; give lower ones")
    noise = pooled_noise([each.losses for each in by_length[longest]])
    half = estimate(by_length[longest][0].losses, noise).half if noise else None
    tolerance = max(LEAST_TOLERANCE, min(half or 0.0, 5 * LEAST_TOLERANCE))
    best, notes = _valley(by_length[longest], tolerance, edge)
    drift = _drift({length: each for length, each in by_length.items() if each})
    factor = (horizon / longest) ** DRIFT if horizon > longest else 1.0
    recommended = Interval(
        value=significant(best.value * factor, 3),
        low=None if best.low is None else significant(best.low * factor, 3),
        high=None if best.high is None else significant(best.high * factor, 3),
    )
    return RangeFound(
        losses=list(losses),
        ramp=list(ramp),
        best=best,
        tolerance=tolerance,
        edge=edge,
        drift=drift,
        recommended=recommended,
        notes=notes,
    )


def _rose(each: RateLosses, ramp: Sequence[RampRow]) -> bool:
    """Whether a run ended no lower than the trunk was where the run left it."""
    there = [row.loss for row in ramp if row.rate <= each.rate * 1.001]
    return bool(there and each.losses and np.mean(each.losses) > there[-1])


def _valley(
    losses: Sequence[RateLosses], tolerance: float, edge: float | None = None
) -> tuple[Interval, list[str]]:
    """The lowest point of a parabola through the lowest loss and its neighbours, by log(rate)."""
    x = np.log([each.rate for each in losses])
    y = np.array([np.mean(each.losses) for each in losses])
    lowest = int(y.argmin())
    if len(losses) == 1 or lowest in (0, len(losses) - 1):
        if lowest == 0:
            note = "the best rate is the lowest one tried: give lower range.rates"
        elif edge is None:
            note = "the best rate is the highest one tried: give higher range.rates"
        else:
            note = f"the best rate is the last one before training breaks, at {edge:.3g}"
        return _interval(float(x[lowest]), *_within(x, y, float(y[lowest]) + tolerance)), [note]
    around = slice(lowest - 1, lowest + 2)
    square, slope, _ = np.polyfit(x[around] - x[lowest], y[around], 2)
    at, half = float(x[lowest] - slope / (2 * square)), math.sqrt(tolerance / square)
    return _interval(at, at - half, at + half), []


def _within(x: Any, y: Any, level: float) -> tuple[float, float]:
    """The ends of the stretch around the lowest point on which straight lines are below `level`."""
    lowest = int(y.argmin())
    ends = []
    for way in (-1, 1):
        here = lowest
        while 0 <= here + way < len(y) and y[here + way] <= level:
            here += way
        end = float(x[here])
        if 0 <= here + way < len(y) and y[here] <= level:
            share = (level - y[here]) / (y[here + way] - y[here])
            end += float(share * (x[here + way] - x[here]))
        ends.append(end)
    return ends[0], ends[1]


def _interval(at: float, low: float, high: float) -> Interval:
    value, low, high = (math.exp(each) for each in (at, min(low, at), max(high, at)))
    return Interval(value=significant(value, 3), low=significant(low, 3), high=significant(high, 3))


def _drift(by_length: Mapping[int, Sequence[RateLosses]]) -> float | None:
    """The slope of log(best rate) over log(tokens) between the shortest and the longest runs."""
    if len(by_length) < 2:
        return None
    short, long = min(by_length), max(by_length)
    bests = [math.log(_valley(by_length[each], 0.0)[0].value) for each in (short, long)]
    return round((bests[1] - bests[0]) / math.log(long / short), 3)
