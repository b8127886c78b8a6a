"""A segment of a schedule: its shape, and its value at each token count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manta.config.schedule import Shape

# Factor for values that are whole in exact arithmetic, and below it by a float's error here: a ramp
# must not reach a size a step later on a machine whose cosine is rounded differently.
SLACK = 1 + 2**-40


def round_batch(values: NDArray[np.float64], multiple_of: int) -> NDArray[np.int64]:
    """Batch sizes of a schedule's values: rounded down to a multiple, but at least one multiple."""
    units = np.floor(values / multiple_of * SLACK)
    return multiple_of * np.maximum(units, 1).astype(np.int64)


@dataclass(frozen=True)
class Segment:
    """A shape over the tokens ``[start, end)``, from the value `first` towards `last`.

    Shapes, with x the fraction of the segment's tokens that are consumed:
        constant: `first`; `last` is the same.
        linear: a straight line.
        cosine: half a cosine wave (Loshchilov & Hutter, 2017).
        1-sqrt: ``last + (first - last) (1 - sqrt x)`` (Hägele et al., 2024).
        exponential: a geometric path, the same factor for the same number of tokens.
        power: ``first (tokens / start)^-exponent``, which no end or horizon changes (Vaswani et
            al., 2017, with the exponent 0.5; Shen et al., 2024).
        cyclic: a triangle from `first` to `last` and back each `period` tokens
            (Smith, 2017); the only shape that may end elsewhere than at `last`.

    A batch size is rounded down to a multiple of `multiple_of`. If the segment is only a part of
    a curve, `of` has the tokens over which the whole curve extends. A power has an `exponent`; its
    `last` is the value at the end of the whole curve.
    """

    start: int
    end: int
    shape: Shape
    first: float
    last: float
    period: int | None = None
    multiple_of: int = 1
    of: tuple[int, int] | None = None
    exponent: float | None = None

    def part(self, start: int, end: int) -> Segment:
        """The part of the segment over ``[start, end)``, with the same curve."""
        if self.shape == "constant" or (start, end) == (self.start, self.end):
            return replace(self, start=start, end=end)
        return replace(self, start=start, end=end, of=self.of or (self.start, self.end))

    def at(self, tokens: float) -> float:
        """The value at a token count; counts outside the segment give its ends' values."""
        return float(self._evaluate(np.float64(tokens)))

    def over(self, tokens: NDArray[Any]) -> NDArray[np.float64]:
        """`at` for many token counts: an array of the same shape."""
        return np.asarray(self._evaluate(np.asarray(tokens, dtype=np.float64)))

    @property
    def closing(self) -> float:
        """The value that the segment reaches at `end`, where the next one begins."""
        if self.end == self.start:
            return self.first if self.shape == "cyclic" else self.last
        return self.at(self.end)

    def _evaluate(self, tokens: Any) -> Any:
        """The value at `tokens`, a float64 scalar or an array of them."""
        if self.shape == "constant":
            return tokens * 0.0 + self.first
        begin, finish = self.of or (self.start, self.end)
        if self.exponent is not None:
            reached = np.minimum(np.maximum(tokens, self.start), self.end)
            return self.first * (reached / begin) ** -self.exponent
        offset = np.minimum(np.maximum(tokens, self.start), self.end) - begin
        if self.period is not None:
            x = 1 - abs(2 * ((offset % self.period) / self.period) - 1)
        else:
            x = offset / (finish - begin)
        if self.shape == "exponential":
            value = self.first * (self.last / self.first) ** x
        else:
            value = self.first + (self.last - self.first) * _progress(self.shape, x)
        # Rounding errors must neither leave the range nor miss the last value.
        low, high = sorted((self.first, self.last))
        return np.where(x >= 1, self.last, np.minimum(np.maximum(value, low), high))


def _progress(shape: Shape, x: Any) -> Any:
    """The fraction of the way from `first` to `last`, given the fraction x of tokens."""
    if shape == "cosine":
        return (1 - np.cos(np.pi * x)) / 2
    if shape == "1-sqrt":
        return np.sqrt(x)
    return x
