"""A batch schedule as arithmetic: where the batch size changes, and which steps have which size.

Batch size is a piecewise-constant function of tokens and of steps. A *level* is the size from a
token count on. A *plateau* is a series of steps of one size. A step has the size of the level in
which it starts, so a plateau ends before the first step that starts in the next level. Once the
levels are known, all arithmetic is on whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from manta.config.errors import ConfigError
from manta.config.units import format_tokens
from manta.schedule.segment import Segment, round_batch

Ints = NDArray[np.int64]

# More levels are taken for a mistake, such as a ramp by single samples to a million.
MOST_LEVELS = 100_000


@dataclass(frozen=True)
class Level:
    """The batch size, in samples, of steps that start at `tokens` or later."""

    tokens: int
    batch: int


@dataclass(frozen=True)
class Plateau:
    """`steps` steps of `batch` samples; `step` is the first, `position` its first position."""

    step: int
    position: int
    batch: int
    steps: int

    @property
    def end_step(self) -> int:
        """The step after the last one."""
        return self.step + self.steps

    @property
    def end_position(self) -> int:
        """The position after the last one."""
        return self.position + self.steps * self.batch


def levels_of(segments: Sequence[Segment]) -> tuple[Level, ...]:
    """The levels of canonical batch segments; neighbours differ in size.

    Costs O(levels · log tokens), whatever the number of steps.

    Raises:
        ConfigError: above `MOST_LEVELS` levels.
    """
    found: list[Level] = []
    for segment in segments:
        tokens, sizes = _levels_in(segment)
        _check_count(len(found) + len(tokens), segment)
        for token, size in zip(tokens.tolist(), sizes.tolist(), strict=True):
            if not found or found[-1].batch != size:
                found.append(Level(token, size))
    return tuple(found)


def plateaus_of(levels: Sequence[Level], horizon: int, seq_len: int) -> tuple[Plateau, ...]:
    """The plateaus of a run that takes whole batches while below `horizon` tokens."""
    found: list[Plateau] = []
    step = position = 0
    ends = [level.tokens for level in levels[1:]] + [horizon]
    for level, end in zip(levels, ends, strict=True):
        left = end - position * seq_len
        if left <= 0:  # a step of the level before ends after this level
            continue
        steps = -(-left // (level.batch * seq_len))
        if found and found[-1].batch == level.batch:
            found[-1] = replace(found[-1], steps=found[-1].steps + steps)
        else:
            found.append(Plateau(step, position, level.batch, steps))
        step += steps
        position += steps * level.batch
    return tuple(found)


def _levels_in(segment: Segment) -> tuple[Ints, Ints]:
    """The token counts at which sizes begin in one segment, and the sizes, of equal shape."""
    if segment.period is not None:
        tokens, sizes = _tiled(segment, segment.period)
    else:
        tokens, sizes = _monotone(segment, segment.start, segment.end - 1)
    return tokens, sizes


def _tiled(segment: Segment, period: int) -> tuple[Ints, Ints]:
    """`_levels_in` of a cyclic segment: one period, a rise and a fall, repeated up to its end."""
    cycle = replace(segment, start=0, end=period)
    # Both halves include the turning point. If the period is odd, that lies between two tokens, at
    # which the curve has the same value.
    halves = [_monotone(cycle, 0, period // 2), _monotone(cycle, period // 2, period - 1)]
    tokens = np.concatenate([half[0] for half in halves])
    sizes = np.concatenate([half[1] for half in halves])
    cycles = -(-(segment.end - segment.start) // period)
    _check_count(len(tokens) * cycles, segment)
    starts = segment.start + period * np.arange(cycles, dtype=np.int64)
    tokens = (starts[:, None] + tokens).ravel()
    kept = tokens < segment.end
    return tokens[kept], np.tile(sizes, cycles)[kept]


def _monotone(segment: Segment, low: int, high: int) -> tuple[Ints, Ints]:
    """`_levels_in` for the tokens ``[low, high]``, on which the segment's curve is monotone.

    All boundaries are bisected at once, on whole token counts.
    """
    first, last = _units(segment, np.array([low, high]))
    sign = 1 if last >= first else -1
    _check_count(abs(int(last - first)), segment)
    units = np.arange(first, last + sign, sign, dtype=np.int64)
    # Invariant: at `before` the size isn't reached yet, at `at` it is.
    before = np.full(len(units) - 1, low, dtype=np.int64)
    at = np.full(len(units) - 1, high, dtype=np.int64)
    while np.any(at - before > 1):
        middle = (before + at) // 2
        reached = sign * _units(segment, middle) >= sign * units[1:]
        at, before = np.where(reached, middle, at), np.where(reached, before, middle)
    tokens = np.concatenate([[low], at])
    # Where the curve passes several sizes within one token, the last of them counts.
    kept = np.append(tokens[1:] != tokens[:-1], True)
    return tokens[kept], units[kept] * segment.multiple_of


def _units(segment: Segment, tokens: Ints) -> Ints:
    """The segment's batch sizes at `tokens`, in units of its multiple."""
    return round_batch(segment.over(tokens), segment.multiple_of) // segment.multiple_of


def _check_count(count: int, segment: Segment) -> None:
    if count > MOST_LEVELS:
        raise ConfigError(
            f"schedule.batch: the {segment.shape} segment from {format_tokens(segment.start)} to "
            f"{format_tokens(segment.end)} tokens makes for {count} changes of the batch size, "
            f"more than {MOST_LEVELS}; give a larger 'multiple_of' or 'period'"
        )
