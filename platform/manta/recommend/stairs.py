"""Schedules whose batch size grows in stairs, and whose learning rate grows with it.

With an Adam-like optimizer the rate grows as the square root of the batch size (Malladi et al.,
2022, arXiv:2205.10287), with SGD as the batch size (Goyal et al., 2017, arXiv:1706.02677).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from manta.record.number_format import significant
from manta.schedule import Schedule, Segment

# A token count and the batch size from there on, in samples; the first one begins at 0.
Stair = tuple[int, int]
# Straight pieces that a curve is written as, once a stair has cut it.
PIECES = 64
# Shapes of which a part, multiplied, is of the same shape.
EXACT = ("constant", "linear", "exponential", "power")
# Shapes from one value to another which as a whole, multiplied, are what they were.
SCALABLE = ("cosine", "1-sqrt")
# Of a rate: as many as anyone reads.
DIGITS = 6


def exponent_of(optimizer: str) -> float:
    """The power of the batch size by which the rate grows, for a type of optimizer."""
    return 1.0 if optimizer == "sgd" else 0.5


def batch_stairs(stairs: Sequence[Stair], horizon: int) -> int | list[dict[str, Any]]:
    """`schedule.batch` as a config has it; stairs that begin after the horizon are left out."""
    kept = [stair for stair in stairs if stair[0] < horizon]
    if len(kept) == 1:
        return kept[0][1]
    ends = [start for start, _ in kept[1:]]
    segments: list[dict[str, Any]] = [{"from": size} for _, size in kept]
    for segment, end in zip(segments, ends, strict=False):
        segment["until"] = end
    return segments


def rate_stairs(
    schedule: Schedule, stairs: Sequence[Stair], size: int, exponent: float, factor: float = 1.0
) -> list[dict[str, Any]]:
    """`schedule.lr` as a config has it: a schedule's rates, which grow with the batch size.

    Segments stay what they are where no stair lies within, or where a part of them is of their
    shape; other curves become straight pieces.

    Args:
        schedule: the schedule with the rates for a constant batch.
        stairs: the batch sizes.
        size: the batch size that the schedule's rates are for.
        exponent: power of the batch size by which the rate grows.
        factor: a number that all rates are multiplied by, besides.
    """
    found: list[dict[str, Any]] = []
    for start, end, segment in _cut(schedule, stairs):
        batch = next(size for begin, size in reversed(stairs) if begin <= start)
        times = factor * (batch / size) ** exponent
        ends = [segment.at(start), segment.closing if end == segment.end else segment.at(end)]
        first, last = (significant(times * value, DIGITS) for value in ends)
        whole = (start, end) == (segment.start, segment.end)
        found.append({**_shape(segment, first, last, whole=whole), "until": end})
    del found[-1]["until"]
    return found


def _shape(segment: Segment, first: float, last: float, *, whole: bool) -> dict[str, Any]:
    """A piece of a rate, but for its end."""
    if segment.shape == "power":
        return {"shape": "power", "exponent": segment.exponent, "from": first}
    if first == last:
        return {"from": first}
    kept = segment.shape == "exponential" or (whole and segment.shape in SCALABLE)
    shape = segment.shape if kept else "linear"
    return {"shape": shape, "from": first, "to": last}


def _cut(schedule: Schedule, stairs: Sequence[Stair]) -> Iterator[tuple[int, int, Segment]]:
    """The pieces of a rate between two stairs, each straight enough, as tokens and segment."""
    steps = [start for start, _ in stairs]
    for segment in schedule.lr_segments:
        cuts = {segment.start, segment.end}
        within = {step for step in steps if segment.start < step < segment.end}
        cuts |= within
        stays = segment.shape in SCALABLE and not within
        if segment.shape not in EXACT and not stays:
            width = segment.end - segment.start
            # Short ones first: `1-sqrt` is steepest at its beginning.
            parts = (part**2 / PIECES**2 for part in range(1, PIECES))
            cuts |= {segment.start + int(width * part) for part in parts}
        ordered = sorted(cuts)
        for start, end in pairwise(ordered):
            yield start, end, segment


def end_of_warmup(schedule: Schedule) -> int:
    """The token count at which the rate first is at its highest."""
    peak = max(max(s.first, s.last) for s in schedule.lr_segments)
    for segment in schedule.lr_segments:
        if segment.first == peak:
            return segment.start
        if segment.closing == peak:
            return segment.end
    return 0


def rising(values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """The non-decreasing values that are nearest by squares: isotonic regression.

    By pooling adjacent violators (Barlow et al., 1972).
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, number of values
    for index, value in enumerate(values):
        blocks.append((value, 1.0 if weights is None else weights[index], 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, wa, na), (b, wb, nb) = blocks[-2:]
            blocks[-2:] = [((a * wa + b * wb) / (wa + wb), wa + wb, na + nb)]
    return [mean for mean, _, count in blocks for _ in range(count)]
