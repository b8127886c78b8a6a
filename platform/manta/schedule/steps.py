"""The schedule of a run: learning rate, batch size and steps, each in closed form."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from manta.config.errors import RunError
from manta.config.schedule import ScheduleSection
from manta.schedule.plateaus import Level, Plateau, levels_of, plateaus_of
from manta.schedule.resolve import batch_segments, lr_segments
from manta.schedule.segment import Segment


@dataclass(frozen=True)
class Step:
    """One optimizer update: ``batch_size`` samples from ``first_position`` on.

    `tokens` is the number of tokens consumed before the step, `tokens_after` after it.
    """

    step: int
    first_position: int
    batch_size: int
    tokens: int
    tokens_after: int
    lr: float

    @property
    def number(self) -> int:
        """The step's number for people, from 1: the number of updates after the step."""
        return self.step + 1


@dataclass(frozen=True)
class Schedule:
    """Learning rate and batch size as functions of the tokens consumed.

    A run takes whole batches while it has consumed less than `horizon` tokens, so its
    last step may pass the horizon, by less than a batch. Nothing here has state: a step
    costs O(log segments) whatever its number.

    Attributes:
        horizon: tokens after which the run ends.
        seq_len: tokens in a sample.
        lr_segments, batch_segments: canonical segments; equal schedules have equal tuples.
        levels: batch size over tokens; plateaus: batch size over steps.
        steps, positions: steps and clock positions of the whole run.
    """

    horizon: int
    seq_len: int
    lr_segments: tuple[Segment, ...]
    batch_segments: tuple[Segment, ...]
    levels: tuple[Level, ...]
    plateaus: tuple[Plateau, ...]

    @classmethod
    def resolve(cls, config: ScheduleSection, seq_len: int) -> Schedule:
        """The schedule that `config` asks for, with samples of `seq_len` tokens.

        Raises:
            ConfigError: naming the key (``schedule.lr.2.until``) and the remedy.
        """
        batches = batch_segments(config)
        levels = levels_of(batches)
        return cls(
            horizon=config.horizon,
            seq_len=seq_len,
            lr_segments=lr_segments(config),
            batch_segments=batches,
            levels=levels,
            plateaus=plateaus_of(levels, config.horizon, seq_len),
        )

    @property
    def steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self.plateaus[-1].end_step

    @property
    def positions(self) -> int:
        """Positions (samples, repeats counted) that the whole run consumes."""
        return self.plateaus[-1].end_position

    @overload
    def lr(self, tokens: float) -> float: ...
    @overload
    def lr(self, tokens: NDArray[Any]) -> NDArray[np.float64]: ...
    def lr(self, tokens: float | NDArray[Any]) -> float | NDArray[np.float64]:
        """The learning rate at a token count, or at each of an array of them.

        At a boundary it is that of the segment that starts there; from the horizon on, the value
        at which the last segment ends.
        """
        if isinstance(tokens, np.ndarray):
            return self._lr_over(tokens)
        return self.lr_segments[_index(self.lr_segments, tokens)].at(tokens)

    def batch_size(self, tokens: int) -> int:
        """Number of samples in a step that starts at a token count."""
        index = bisect_right(self.levels, tokens, key=lambda level: level.tokens) - 1
        return self.levels[max(index, 0)].batch

    def step(self, k: int) -> Step:
        """Step `k`, from 0.

        The step's learning rate is the schedule's at the *middle* of the step's tokens (of those
        within the horizon). So neither the first step of a warmup from 0 nor the last of a
        decay to 0 is wasted on a rate of 0, and the sum of rate × tokens over a run is the
        midpoint rule for the schedule's integral, which doesn't depend on the batch size.

        Raises:
            IndexError: if the run has no such step.
        """
        if not 0 <= k < self.steps:
            raise IndexError(f"step {k} of a run of {self.steps} steps")
        plateau = self._plateau(k)
        tokens = self.tokens_after(k)
        after = tokens + plateau.batch * self.seq_len
        middle = (tokens + min(after, self.horizon)) / 2
        position = tokens // self.seq_len
        return Step(k, position, plateau.batch, tokens, after, self.lr(middle))

    def tokens_after(self, steps: int) -> int:
        """Tokens consumed after the first `steps` steps; the run has at least as many."""
        plateau = self._plateau(steps)
        return (plateau.position + (steps - plateau.step) * plateau.batch) * self.seq_len

    def _plateau(self, k: int) -> Plateau:
        return self.plateaus[bisect_right(self.plateaus, k, key=lambda p: p.step) - 1]

    def step_at(self, position: int) -> Step:
        """The step whose first position is `position`.

        Raises:
            RunError: if no step begins there, as at `positions`, where the run has ended.
        """
        index = bisect_right(self.plateaus, position, key=lambda p: p.position) - 1
        plateau = self.plateaus[max(index, 0)]
        steps, rest = divmod(position - plateau.position, plateau.batch)
        if rest or not 0 <= position < self.positions:
            raise RunError(
                f"no step of this schedule begins at position {position}: the schedule has "
                f"{self.positions} positions, and from position {plateau.position} on batches of "
                f"{plateau.batch}; set schedule.batch and schedule.horizon to the values that the "
                "checkpoint was written with"
            )
        return self.step(plateau.step + steps)

    def lrs(self, first: int, count: int) -> NDArray[np.float64]:
        """The learning rates of the steps ``[first, first + count)``, as `step` has them.

        Raises:
            IndexError: if the run has no such steps.
        """
        if not 0 <= first <= first + count <= self.steps:
            raise IndexError(f"steps {first} to {first + count} of a run of {self.steps} steps")
        k = np.arange(first, first + count, dtype=np.int64)
        begins = np.array([(p.step, p.position, p.batch) for p in self.plateaus], dtype=np.int64)
        step, position, batch = begins[np.searchsorted(begins[:, 0], k, side="right") - 1].T
        tokens = (position + (k - step) * batch) * self.seq_len
        after = tokens + batch * self.seq_len
        return self._lr_over((tokens + np.minimum(after, self.horizon)) / 2)

    def reaching(self, tokens: int) -> int:
        """The number (from 1) of the step with which a run has consumed `tokens`.

        Raises:
            IndexError: if the run ends before.
        """
        positions = max(1, -(-tokens // self.seq_len))
        if positions > self.positions:
            end = self.positions * self.seq_len
            raise IndexError(f"{tokens} tokens are not reached by a run of {end} tokens")
        last = positions - 1
        index = bisect_right(self.plateaus, last, key=lambda p: p.position) - 1
        plateau = self.plateaus[index]
        return plateau.step + (last - plateau.position) // plateau.batch + 1

    def _lr_over(self, tokens: NDArray[Any]) -> NDArray[np.float64]:
        starts = np.array([segment.start for segment in self.lr_segments])
        which = np.maximum(np.searchsorted(starts, tokens, side="right") - 1, 0)
        values = np.empty(tokens.shape, dtype=np.float64)
        for index in np.unique(which):
            here = which == index
            values[here] = self.lr_segments[index].over(tokens[here])
        return values


def _index(segments: tuple[Segment, ...], tokens: float) -> int:
    """The segment in force at a token count: the last one that has started."""
    return max(bisect_right(segments, tokens, key=lambda s: s.start) - 1, 0)
