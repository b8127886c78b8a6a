"""The charts of a comparison's parameters: their importance, and parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manta.record.number_format import significant
from manta.show.compare.chart_style import (
    cut,
    metric_colour,
    metric_key,
    metric_range,
    name_of,
    rounded,
)
from manta.show.compare.comparison import Comparison, short_keys
from manta.show.compare.comparison_stats import is_number, short
from manta.show.compare.ranking import RankedConfig, Ranking
from manta.show.compare.verdict import view_name
from manta.show.pages.charts import BLUE, GREY, Figure, rows

MOST_AXES = 10
MOST_TICKS = 8
METRIC_TICKS = 5


def importance_chart(comparison: Comparison, ranking: Ranking) -> Figure | None:
    """A bar for the importance of each parameter; None if no parameter can be judged."""
    found = ranking.importances[:MOST_AXES]
    view = ranking.importance_view
    if not found or view is None:
        return None
    names = short_keys(comparison.keys)
    bars = [(names[one.key], one.share, BLUE, _groups(one.groups)) for one in found]
    if ranking.noise_share is not None:
        bars.append(
            ("(seed)", ranking.noise_share, GREY, "variance that configurations don't explain")
        )
    return rows(
        f"Importance of each parameter, {view_name(view)}",
        [cut(name, 24) for name, *_ in bars],
        x={
            "title": f"share of the variance of {comparison.metric}",
            "range": [0, 1.08],
            "format": "percent",
        },
        height=60 + 30 * len(bars),
        bars=[
            {
                "row": row,
                "from": 0,
                "to": rounded(share),
                "color": colour,
                "label": f"{share:.0%}",
                "text": text,
            }
            for row, (_, share, colour, text) in enumerate(bars)
        ],
        note="How much of the variance each parameter explains by itself (variance between its "
        "values, less what chance would give). Effects of parameters in combination are in none.",
        whole=True,
    )


def _groups(groups: Sequence[tuple[str, float]]) -> str:
    return "\n".join(f"{cut(name)}: {mean:.4f}" for name, mean in groups)


def parallel_chart(comparison: Comparison, ranking: Ranking) -> Figure | None:
    """A line for each configuration across the axes of the parameters and the metric."""
    view = ranking.importance_view
    if view is None or len(view.entries) < 2 or not comparison.keys:
        return None
    strength = {one.key: one.share for one in ranking.importances}
    keys = sorted(comparison.keys, key=lambda key: -strength.get(key, 0.0))[:MOST_AXES]
    names = short_keys(comparison.keys)
    means = [entry.estimate.mean for entry in view.entries]
    low, high = metric_range(means, comparison.mode)
    scales = [_axis([_param(entry, key) for entry in view.entries]) for key in keys]
    ends = [max(means), min(means)] if comparison.mode == "min" else [min(means), max(means)]
    ticks = (
        [float(tick) for tick in np.linspace(ends[0], ends[1], METRIC_TICKS)]
        if high > low
        else means[:1]
    )
    scales.append(Axis(means, ticks, [f"{tick:.4f}" for tick in ticks], (ends[0], ends[1])))
    labels = [*(names[key] for key in keys), comparison.metric]
    return {
        "kind": "parallel",
        "title": f"Parameters and {comparison.metric}, {view_name(view)}",
        "height": 360,
        "axes": [
            {
                "label": label,
                "ticks": [
                    [scale.share(tick), text]
                    for tick, text in zip(scale.ticks, scale.texts, strict=True)
                ],
            }
            for label, scale in zip(labels, scales, strict=True)
        ],
        # Draw the best last, so that it is on top.
        "lines": [
            {
                "at": [scale.share(scale.values[row]) for scale in scales],
                "color": metric_colour(means[row], low, high, comparison.mode),
                "width": 3.0 if row == 0 else 1.8,
                "text": f"{name_of(ranking, view.entries[row].configuration)}\n{means[row]:.4f}",
            }
            for row in reversed(range(len(means)))
        ],
        "scale": metric_key(low, high, comparison.mode),
        "note": "Each line is a configuration; the best are at the top of the last axis. Drag "
        "along an axis to keep only the lines that pass there; click it to show all again.",
        "whole": True,
        "min_width": 90 * len(labels) if len(labels) > 4 else 0,
    }


def _param(entry: RankedConfig, key: str) -> Any:
    return entry.configuration.params.get(key)


@dataclass(frozen=True)
class Axis:
    """One axis: the value of each line on it, its ticks with their texts, and its ends."""

    values: list[float]
    ticks: list[float]
    texts: list[str]
    ends: tuple[float, float]

    def share(self, value: float) -> float:
        """A value's position on the axis, from 0 at the lower end to 1 at the upper one."""
        low, high = self.ends
        return rounded((value - low) / (high - low)) if high != low else 0.5


def _axis(values: Sequence[Any]) -> Axis:
    """An axis for `values`: linear, logarithmic, or with a position for each word."""
    if not all(is_number(value) for value in values):
        kinds = sorted({short(value) for value in values})
        where = {kind: float(index) for index, kind in enumerate(kinds)}
        ends = (-0.3, len(kinds) - 0.7)
        return Axis([where[short(value)] for value in values], [*where.values()], kinds, ends)
    distinct = sorted(set(values))
    logarithmic = distinct[0] > 0 and distinct[-1] >= 10 * distinct[0]
    if len(distinct) > MOST_TICKS:
        between = np.geomspace if logarithmic else np.linspace
        ticks = [significant(tick, 3) for tick in between(distinct[0], distinct[-1], 6)]
    else:
        ticks = distinct
    scaled = math.log10 if logarithmic else float
    ends = (scaled(distinct[0]), scaled(distinct[-1]))
    texts = [short(tick) for tick in ticks]
    return Axis([scaled(value) for value in values], [scaled(tick) for tick in ticks], texts, ends)
