"""How many steps two schedules share: the arithmetic of a stage tree.

Two runs that differ only in their schedules are the same run as long as their updates are the same:
same samples, same learning rate, to the bit. The *steps* are compared, not the segments: a decay
that starts later shares the plateau before it, and a line written as two segments shares all steps
at which the floats are equal.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from manta.schedule.segment import Segment
from manta.schedule.steps import Schedule

# Steps compared at once: few at first, as the first difference is mostly near, then ever more, up
# to what fits into a CPU's cache.
FIRST_CHUNK, MOST_CHUNK = 64, 65_536


def shared_steps(a: Schedule, b: Schedule) -> int:
    """Number of steps, from the first on, that are the same update in both schedules.

    Costs O(segments) where the segments are the same, and one comparison for each step from there
    to the first difference.
    """
    if a.seq_len != b.seq_len:
        return 0
    most = _same_batches(a, b)
    if not most:
        return 0
    tokens = _same_lr_tokens(a.lr_segments, b.lr_segments)
    # The last step is always compared, as a horizon within it moves its middle.
    first = bisect_left(range(most - 1), tokens, key=lambda k: a.tokens_after(k + 1))
    chunk = FIRST_CHUNK
    while first < most:
        count = min(chunk, most - first)
        different = a.lrs(first, count) != b.lrs(first, count)
        if different.any():
            return first + int(np.argmax(different))
        first += count
        chunk = min(4 * chunk, MOST_CHUNK)
    return most


def _same_batches(a: Schedule, b: Schedule) -> int:
    """Number of steps, from the first on, that consume the same positions."""
    for mine, other in zip(a.plateaus, b.plateaus, strict=False):
        if mine.batch != other.batch:
            return mine.step
        if mine.steps != other.steps:
            return mine.step + min(mine.steps, other.steps)
    return min(a.steps, b.steps)


def _same_lr_tokens(a: tuple[Segment, ...], b: tuple[Segment, ...]) -> int:
    """The token count up to which two rates have the same segments; they may agree for longer."""
    for mine, other in zip(a, b, strict=False):
        if _curve(mine) != _curve(other):
            return mine.start
        if mine.end != other.end:
            return min(mine.end, other.end)
    return min(a[-1].end, b[-1].end)


def _curve(segment: Segment) -> tuple[object, ...]:
    """What determines a segment's values, whatever part of the curve the segment is."""
    if segment.shape == "constant":
        return segment.shape, segment.first
    span = segment.of or (segment.start, segment.end)
    if segment.exponent is not None:
        return segment.shape, span[0], segment.first, segment.exponent
    return segment.shape, span, segment.first, segment.last, segment.period
