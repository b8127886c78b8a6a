"""The metrics of a run as columns, thinned out for drawing."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from manta.config.metrics import TOKENS_OF, VAL_LOSS, VAL_LOSS_AVERAGE
from manta.record.history import kind_of
from manta.record.noise_scale import NOISE_SCALE, NoiseScale

COLUMNS = (
    "step",
    "tokens",
    "loss",
    "lr",
    "batch_size",
    "tokens_per_s",
    "world_size",
    "grad_norm",
    NOISE_SCALE,
    "mfu",
    "peak_memory",
    "time_data",
    "time_communication",
)
WHOLE = {"step", "tokens", "batch_size", "world_size", "peak_memory"}
# Most points of a curve: more than a screen has columns can't be seen, and would draw slowly.
MOST_POINTS = 1000


class Series:
    """Rows as columns of 8-byte numbers; missing values are NaN."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._columns = {name: array("d") for name in names}

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one row, with columns for sources that no row before had."""
        for name in row:
            if name.startswith(TOKENS_OF) and name not in self._columns:
                self._columns[name] = array("d", [math.nan] * len(self))
        for name, column in self._columns.items():
            value = row.get(name)
            column.append(math.nan if value is None else value)

    def __len__(self) -> int:
        return len(self._columns["step"])

    @property
    def sources(self) -> list[str]:
        """The sources of which the rows have tokens."""
        return [
            name.removeprefix(TOKENS_OF) for name in self._columns if name.startswith(TOKENS_OF)
        ]

    def has(self, name: str) -> bool:
        """True if some row has a value of `name`."""
        return any(not math.isnan(value) for value in self._columns[name])

    def values(self, name: str, rows: Iterable[int]) -> list[float | int | None]:
        """The values of `name` in `rows`, as they are in the file."""
        column = self._columns[name]
        whole = name in WHOLE or name.startswith(TOKENS_OF)
        return [_shown(column[row], whole=whole) for row in rows]

    def thinned(self, measure: str) -> list[int]:
        """Indices of rows that look like all rows when drawn: first, last, extremes of `measure`.

        Rows are left out, never averaged: each point drawn is a row of the file.
        """
        if len(self) <= MOST_POINTS:
            return list(range(len(self)))
        column = self._columns[measure]
        kept = {0, len(self) - 1, *self._changes("batch_size"), *self._changes("world_size")}
        stretch = math.ceil(len(self) / (MOST_POINTS // 2))
        for begin in range(0, len(self), stretch):
            rows = range(begin, min(begin + stretch, len(self)))
            kept.add(min(rows, key=lambda row: (math.isnan(column[row]), column[row])))
            kept.add(max(rows, key=lambda row: (not math.isnan(column[row]), column[row])))
        return sorted(kept)

    def last_mean(self, name: str, share: float) -> float | None:
        """The mean of `name` over the last `share` of the tokens; None without a value."""
        tokens, column = self._columns["tokens"], self._columns[name]
        begin = (1 - share) * tokens[-1] if tokens else 0.0
        known = [row for row in range(len(self)) if not math.isnan(column[row])]
        last = [column[row] for row in known if tokens[row] > begin] or [
            column[row] for row in known[-1:]
        ]
        return sum(last) / len(last) if last else None

    def _changes(self, name: str) -> list[int]:
        """The rows at which a staircase changes; empty if it changes too often to be one."""
        column = self._columns.get(name, array("d"))
        found = [row for row in range(1, len(column)) if column[row] != column[row - 1]]
        return found if len(found) <= MOST_POINTS // 8 else []


def read_series(
    rows: Iterable[Mapping[str, Any]],
    evaluated: Callable[[Mapping[str, Any]], None] = lambda row: None,
) -> tuple[Series, Series]:
    """The training rows and the validation rows.

    Args:
        rows: the rows of a history.
        evaluated: takes the rows of evaluations beside training.
    """
    training, validation = Series(COLUMNS), Series(("step", "tokens", VAL_LOSS, VAL_LOSS_AVERAGE))
    noise = NoiseScale()
    for row in rows:
        kind = kind_of(row)
        if kind == "training":
            training.add({**row, NOISE_SCALE: noise.after(row)})
        elif kind == "evaluation":
            evaluated(row)
        else:
            validation.add(row)
    return training, validation


def _shown(value: float, *, whole: bool) -> float | int | None:
    if math.isnan(value):
        return None
    return int(value) if whole else value
