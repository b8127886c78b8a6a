"""What evaluators found along a run, over the tokens of the checkpoints that they measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manta.config.metrics import EVALUATED, of_evaluator
from manta.record.metric_text import FIRST, SHARE
from manta.show.pages.charts import COLOURS, TOKENS, Figure, lines, series


class EvaluatedSeries:
    """The rows of evaluations beside training; the same row counts once."""

    def __init__(self) -> None:
        self._rows: dict[int, Mapping[str, Any]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self._rows[row["step"]] = row

    def figures(self, tokens: int) -> list[Figure]:
        """A chart for each of the metrics that are shown first, with a line for each evaluator.

        Args:
            tokens: end of the x-axis.
        """
        rows = [self._rows[step] for step in sorted(self._rows)]
        names = sorted({key for row in rows for key in row if of_evaluator(key)})
        return [
            _chart(metric, keys, rows, tokens)
            for metric in FIRST
            if (keys := [name for name in names if name.rpartition("/")[2] == metric])
        ]


def _chart(metric: str, keys: list[str], rows: list[Mapping[str, Any]], tokens: int) -> Figure:
    data = []
    for index, key in enumerate(keys):
        known = [row for row in rows if row.get(key) is not None]
        points = series(
            key,
            [row["tokens"] for row in known],
            [row[key] for row in known],
            COLOURS[index % len(COLOURS)],
            steps=[row["step"] for row in known],
            legend=True,
        )
        data.append({**points, "dots": True})
    unit = EVALUATED[metric].unit
    title = f"{EVALUATED[metric].meaning} ({metric}{f', {unit}' if unit != SHARE else ''})"
    axis = {"format": "percent" if unit == SHARE else "number", "zero": unit == SHARE}
    return lines(title, data, x={**TOKENS, "range": [0, max(tokens, 1)]}, y=axis)
