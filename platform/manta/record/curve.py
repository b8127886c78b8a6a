"""One metric of a run over tokens and over device time, read from its history."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# A single step's loss is noisy, so runs are compared by its mean over this share of the run's
# tokens before each point.
SMOOTHED = 0.02


@dataclass(frozen=True)
class Curve:
    """A metric along a run: `values` at `tokens`, and the device-seconds spent by then.

    `seconds` is empty if the run's rows have no speed. `trained_tokens` and
    `trained_seconds` are those of all training rows, whatever the metric.
    """

    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    values: tuple[float, ...]
    trained_tokens: tuple[int, ...]
    trained_seconds: tuple[float, ...]

    @property
    def reached(self) -> int:
        """Tokens at the last row of any kind."""
        return max((0, *self.tokens[-1:], *self.trained_tokens[-1:]))

    @property
    def device_seconds(self) -> float | None:
        """Seconds of training, all devices together, up to the last row."""
        return self.trained_seconds[-1] if self.trained_seconds else None

    def until(self, tokens: int) -> Curve:
        """The part of the curve up to a token count."""
        rows = bisect_right(self.tokens, tokens)
        trained = bisect_right(self.trained_tokens, tokens)
        return Curve(
            self.tokens[:rows],
            self.seconds[:rows],
            self.values[:rows],
            self.trained_tokens[:trained],
            self.trained_seconds[:trained],
        )

    def seconds_at(self, tokens: int) -> float | None:
        """Device-seconds of training up to a token count; None if the rows have no speed."""
        if not self.trained_seconds:
            return None
        return _along(tokens, self.trained_tokens, self.trained_seconds)


def read_curve(
    rows: Iterable[Mapping[str, Any]], metric: str, devices_per_worker: float = 1.0
) -> Curve:
    """The curve of `metric` from a history's rows.

    A training row has the speed at which the tokens since the row before it were trained; a row
    without it (of a skipped step) counts at the speed of the row before.

    Args:
        rows: the rows of `metrics.jsonl`, in file order.
        metric: the metric's key in a row.
        devices_per_worker: the number of devices that one worker holds.
    """
    tokens: list[int] = []
    values: list[float] = []
    trained: list[int] = []
    clock: list[float] = []
    speed, seconds, before = 0.0, 0.0, 0
    for row in rows:
        here = int(row.get("tokens", 0))
        value = row.get(metric)
        if isinstance(value, int | float):
            tokens.append(here)
            values.append(float(value))
        if "world_size" not in row:
            continue
        per_device = (row.get("tokens_per_s") or 0.0) / (row["world_size"] * devices_per_worker)
        speed = per_device or speed
        if speed:
            seconds += max(0, here - before) / speed
        trained.append(here)
        clock.append(seconds)
        before = here
    if metric == "loss":
        values = _smoothed(tokens, values)
    timed = clock if seconds else []
    at = [_along(count, trained, timed) for count in tokens] if timed else []
    return Curve(tuple(tokens), tuple(at), tuple(values), tuple(trained), tuple(timed))


def _smoothed(tokens: list[int], values: list[float]) -> list[float]:
    """The mean of each value and those of the tokens just before it."""
    width = SMOOTHED * tokens[-1] if tokens else 0.0
    window: deque[tuple[int, float]] = deque()
    total, found = 0.0, []
    for count, value in zip(tokens, values, strict=True):
        window.append((count, value))
        total += value
        while window[0][0] <= count - width and len(window) > 1:
            total -= window.popleft()[1]
        found.append(total / len(window))
    return found


def _along(count: int, tokens: list[int] | tuple[int, ...], clock: Any) -> float:
    """`clock` at a token count, interpolated linearly from 0 and between rows."""
    index = bisect_left(tokens, count)
    if index == len(tokens):
        return float(clock[-1])
    start, began = (tokens[index - 1], clock[index - 1]) if index else (0, 0.0)
    share = (count - start) / (tokens[index] - start) if tokens[index] > start else 1.0
    return float(began + share * (clock[index] - began))
