"""The charts of a comparison's parameters: what each explains, and which go together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from manta.track.compare import Comparison, short_keys
from manta.track.compare_style import Chart, Figure, cut, metric_range, metric_scale, plain
from manta.track.comparison_stats import is_number, short
from manta.track.ranking import Entry, Ranking
from manta.track.report_figures import BLUE, GREY, base_layout
from manta.track.verdict import place

MOST_AXES = 10
MOST_TICKS = 8


def importance_chart(comparison: Comparison, ranking: Ranking) -> Chart | None:
    """What each parameter explains, as bars; nothing without a parameter that can be judged."""
    found = ranking.importances[:MOST_AXES]
    view = ranking.importance_view
    if not found or view is None:
        return None
    names = short_keys(comparison.keys)
    bars = [(names[one.key], one.share, BLUE, _groups(one.groups)) for one in found]
    if ranking.noise_share is not None:
        bars.append(("(seed)", ranking.noise_share, GREY, "what configurations leave open"))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "y": [cut(name, 24) for name, *_ in bars],
            "x": [share for _, share, *_ in bars],
            "marker": {"color": [colour for *_, colour, _ in bars]},
            "text": [f"{share:.0%}" for _, share, *_ in bars],
            "textposition": "outside",
            "cliponaxis": False,
            "hovertext": [text for *_, text in bars],
            "hovertemplate": "%{y}: %{text}<br>%{hovertext}<extra></extra>",
        }
    ]
    layout = base_layout(f"share of the variance of {comparison.metric}")
    layout["hovermode"] = "closest"
    layout["xaxis"] |= {
        "tickformat": ".0%",
        "range": [0, 1.08],
        "tickvals": [0, 0.25, 0.5, 0.75, 1],
    }
    layout["yaxis"] |= {"autorange": "reversed", "type": "category"}
    layout["margin"] = {"l": 8, "r": 24, "t": 8, "b": 44}
    return Chart(
        f"Importance of each parameter, {place(view)}",
        {"data": data, "layout": layout},
        "How much of the differences each parameter explains by itself (variance between its "
        "values, less what chance would give). What parameters do only together is in none.",
        height=max(230, 90 + 30 * len(bars)),
        wide=True,
    )


def _groups(groups: Sequence[tuple[str, float]]) -> str:
    return "<br>".join(f"{plain(cut(name))}: {mean:.4f}" for name, mean in groups)


def parallel_chart(comparison: Comparison, ranking: Ranking) -> Chart | None:
    """Each configuration as a line across an axis for each parameter and one for the metric."""
    view = ranking.importance_view
    if view is None or len(view.entries) < 2 or not comparison.keys:
        return None
    strength = {one.key: one.share for one in ranking.importances}
    keys = sorted(comparison.keys, key=lambda key: -strength.get(key, 0.0))[:MOST_AXES]
    names = short_keys(comparison.keys)
    means = [entry.estimate.mean for entry in view.entries]
    low, high = metric_range(means, comparison.mode)
    dimensions = [
        {"label": cut(names[key], 22), **_axis([_param(entry, key) for entry in view.entries])}
        for key in keys
    ]
    ends = [max(means), min(means)] if comparison.mode == "min" else [min(means), max(means)]
    dimensions.append(
        {"label": comparison.metric, "values": means, "range": ends, "tickformat": ".4~f"}
    )
    trace = {
        "type": "parcoords",
        "dimensions": dimensions,
        "line": {
            "color": means,
            "colorscale": metric_scale(comparison.mode),
            "cmin": low,
            "cmax": high,
        },
        "labelfont": {"size": 12},
        "tickfont": {"size": 11},
        "unselected": {"line": {"color": "#e8ebf1", "opacity": 0.5}},
    }
    layout = base_layout("")
    layout["margin"] = {"l": 70, "r": 60, "t": 48, "b": 22}
    return Chart(
        f"Parameters and {comparison.metric}, {place(view)}",
        {"data": [trace], "layout": layout},
        "A line is a configuration, dark the best; the best are at the top of the last axis. Drag "
        "along an axis to see only what passes there.",
        height=380,
        wide=True,
        min_width=150 * (len(dimensions) + 1),
    )


def _param(entry: Entry, key: str) -> Any:
    return entry.configuration.params.get(key)


def _axis(values: Sequence[Any]) -> Figure:
    """Values, ticks and their texts of one axis: a number, a number by its logarithm, or words."""
    if not all(is_number(value) for value in values):
        kinds = sorted({short(value) for value in values})
        where = {kind: place for place, kind in enumerate(kinds)}
        return {
            "values": [where[short(value)] for value in values],
            "tickvals": list(range(len(kinds))),
            "ticktext": [cut(kind, 24) for kind in kinds],
            "range": [-0.3, len(kinds) - 0.7],
        }
    distinct = sorted(set(values))
    logarithmic = distinct[0] > 0 and distinct[-1] >= 10 * distinct[0]
    if len(distinct) > MOST_TICKS:
        between = np.geomspace if logarithmic else np.linspace
        ticks = [float(f"{tick:.3g}") for tick in between(distinct[0], distinct[-1], 6)]
    else:
        ticks = distinct
    scaled = math.log10 if logarithmic else float
    axis = {
        "values": [scaled(value) for value in values],
        "tickvals": [scaled(tick) for tick in ticks],
        "ticktext": [short(tick) for tick in ticks],
    }
    if len(distinct) > 1:
        axis["range"] = [scaled(distinct[0]), scaled(distinct[-1])]
    return axis
