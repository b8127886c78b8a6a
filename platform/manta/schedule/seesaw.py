"""Seesaw: a cosine decay, half by the rate and half by the batch size.

Where the cosine would have halved the rate, the batch size doubles instead and the rate is divided
by √2 (Meterez et al., 2025, arXiv:2510.14717): about the same losses at the same tokens, in fewer
steps. Once the batch may not double again, the rate alone follows the cosine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from manta.config.schedule import Shape
from manta.schedule.segment import SLACK, Segment


@dataclass(frozen=True)
class Seesaw:
    """A warmup, and then rate and batch size in stairs.

    Attributes:
        peak: the rate after the warmup.
        floor: value at which the cosine ends.
        warmup: tokens of the linear rise from 0.
        horizon: tokens at which the cosine ends.
        smallest: samples a step at the start.
        largest: samples a step at most.
    """

    peak: float
    floor: float
    warmup: int
    horizon: int
    smallest: int
    largest: int

    def doublings(self) -> list[int]:
        """The token counts at which the batch size doubles."""
        found = []
        most = (self.largest // self.smallest).bit_length() - 1
        for count in range(1, most + 1):
            left = (self.peak * 0.5**count - self.floor) / (self.peak - self.floor or 1)
            if left <= 0:
                break
            share = math.acos(2 * left - 1) / math.pi
            found.append(self.warmup + int(share * (self.horizon - self.warmup) * SLACK))
        return found

    def lr_segments(self) -> Iterator[Segment]:
        """The rate, from 0 tokens to the horizon."""
        if self.warmup:
            yield Segment(0, self.warmup, "linear", 0.0, self.peak)
        stairs = [self.warmup, *self.doublings()]
        for index, (start, end) in enumerate(pairwise(stairs)):
            if end > start:
                rate = self.peak * 0.5 ** (index / 2)
                yield Segment(start, end, "constant", rate, rate)
        if stairs[-1] < self.horizon:
            factor = 2 ** ((len(stairs) - 1) / 2)
            first, last = self.peak * factor, self.floor * factor
            shape: Shape = "constant" if first == last else "cosine"
            cosine = Segment(self.warmup, self.horizon, shape, first, last)
            yield cosine.part(stairs[-1], self.horizon)

    def batch_segments(self) -> Iterator[Segment]:
        """The batch size, from 0 tokens to the horizon."""
        stairs = [0, *self.doublings(), self.horizon]
        for index, (start, end) in enumerate(pairwise(stairs)):
            if end > start:
                size = float(self.smallest * 2**index)
                yield Segment(start, end, "constant", size, size)
