"""Data of a schedule's picture: the points of its lines, and its segments as rows of text."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from manta.config.units import format_tokens
from manta.schedule.segment import Segment
from manta.schedule.steps import Schedule

Floats = NDArray[np.float64]

POINTS = 400  # points of a curved segment
HEADINGS = ("", "from", "to", "share", "shape", "value")
LR, BATCH = "learning rate", "batch size"
TITLES = {"lr": "Learning rate", "batch": "Batch size (samples)", "steps": "Steps"}


def lr_line(schedule: Schedule, points: int = POINTS) -> tuple[Floats, Floats]:
    """Token counts and learning rates of a line, with `points` points in each curved segment."""
    tokens, values = [], []
    for segment in schedule.lr_segments:
        straight = segment.shape in ("constant", "linear")
        count = 2 if straight else points * _turns(segment)
        places = np.linspace(segment.start, segment.end, count + (count > 2))
        tokens.append(places)
        values.append(segment.over(places))
    return np.concatenate(tokens), np.concatenate(values)


def _turns(segment: Segment) -> int:
    """Number of periods to draw in a segment; at most as many as a screen can show."""
    if segment.period is None:
        return 1
    return min(50, math.ceil((segment.end - segment.start) / segment.period))


def batch_line(schedule: Schedule) -> tuple[Floats, Floats]:
    """Token counts and batch sizes of a line, which is a staircase."""
    starts = [level.tokens for level in schedule.levels]
    sizes = [level.batch for level in schedule.levels]
    tokens = np.repeat(np.array([*starts, schedule.horizon], dtype=np.float64), 2)[1:-1]
    return tokens, np.repeat(np.array(sizes, dtype=np.float64), 2)


def steps_line(schedule: Schedule) -> tuple[Floats, Floats]:
    """Token counts and numbers of steps of a line."""
    ends = [(p.end_position * schedule.seq_len, p.end_step) for p in schedule.plateaus]
    points = np.array([(0, 0), *ends], dtype=np.float64)
    return points[:, 0], points[:, 1]


def segment_rows(schedule: Schedule) -> list[list[str]]:
    """A row for each segment, with cells below `HEADINGS`."""
    return [
        [
            name,
            format_tokens(segment.start),
            format_tokens(segment.end),
            f"{(segment.end - segment.start) / schedule.horizon:.1%}",
            segment.shape,
            _value(segment),
        ]
        for name, segments in ((LR, schedule.lr_segments), (BATCH, schedule.batch_segments))
        for segment in segments
    ]


def _value(segment: Segment) -> str:
    if segment.shape == "constant":
        return f"{segment.first:g}"
    first, last = segment.first, segment.last
    if segment.of is not None and segment.period is None:  # a part of a curve
        first, last = segment.at(segment.start), segment.closing
    text = f"{first:g} → {last:g}"
    if segment.period is not None:
        text += f" and back each {format_tokens(segment.period)}"
    if segment.multiple_of != 1:
        text += f", in multiples of {segment.multiple_of}"
    return text


def totals(schedule: Schedule) -> str:
    """Steps, samples and tokens of the whole schedule."""
    tokens = schedule.positions * schedule.seq_len
    past = tokens - schedule.horizon
    text = (
        f"{schedule.steps:,} steps · {schedule.positions:,} samples of {schedule.seq_len:,} tokens"
        f" · {tokens:,} tokens"
    )
    return text + (f" ({past:,} past the horizon: whole batches)" if past else "")
