"""The charts of a comparison over tokens and compute, as Plotly describes them: plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from manta.schedule.draw import batch_line, lr_line
from manta.track.compare import Comparison, Configuration, Trial
from manta.track.compare_params import importance_chart, parallel_chart
from manta.track.compare_style import (
    Chart,
    Figure,
    colour_of,
    cut,
    name_of,
    plain,
    rounded,
    width_of,
)
from manta.track.ranking import Ranking, View
from manta.track.report_figures import DARK_GREY, GREY, base_layout
from manta.track.verdict import device_unit, place, value_text

# Points of all lines in one chart together; more are not to be seen and slow the page down.
MOST_POINTS = 24_000
CURVED = 80  # points of a curved segment of a schedule
# The first losses are so high that the last ones look alike: the chart shows at first what
# comes after this share of a run.
LATE = 0.45


def charts(comparison: Comparison, ranking: Ranking, top: int) -> list[Chart]:
    """Every chart that has something to show, in the order of the page."""
    drawn = [
        _means(comparison, ranking, top),
        _over_tokens(comparison, ranking, top),
        _over_compute(comparison, ranking, top),
        _rates(ranking, top),
        _batches(ranking, top),
        importance_chart(comparison, ranking),
        parallel_chart(comparison, ranking),
    ]
    return [chart for chart in drawn if chart]


# How much better, how sure.


def _means(comparison: Comparison, ranking: Ranking, top: int) -> Chart | None:
    view = ranking.main
    if view is None or len(view.entries) < 2:
        return None
    entries = view.entries[:top]
    names = [name_of(ranking, entry.configuration) for entry in entries]
    noise = all(entry.estimate.half is not None for entry in entries)
    seeds = _dots(
        [value for entry in entries for value in entry.values],
        [name for name, entry in zip(names, entries, strict=True) for _ in entry.values],
        {"symbol": "circle-open", "size": 7, "color": DARK_GREY, "line": {"width": 1}},
    )
    seeds["text"] = [f"seed {trial.seed}" for entry in entries for trial in entry.trials]
    seeds["hovertemplate"] = "%{x:.4f}, %{text}<extra></extra>"
    means = _dots(
        [entry.estimate.mean for entry in entries],
        names,
        {
            "size": 11,
            "color": [colour_of(ranking, entry.configuration, top) for entry in entries],
        },
    )
    means["text"] = [value_text(entry) for entry in entries]
    means["hovertemplate"] = "%{text}<extra>%{y}</extra>"
    if noise:
        means["error_x"] = {
            "type": "data",
            "array": [entry.estimate.half for entry in entries],
            "color": GREY,
            "thickness": 1.6,
            "width": 4,
        }
    layout = base_layout(comparison.metric)
    layout["hovermode"] = "closest"
    layout["yaxis"] |= {"autorange": "reversed", "type": "category", "gridcolor": "#f2f4f8"}
    layout["margin"] = {"l": 8, "r": 16, "t": 8, "b": 44}
    about = "Large dots are means, circles are seeds, bars are 95 % intervals."
    return Chart(
        f"{comparison.metric} {place(view)}",
        {"data": [means, seeds] if any(len(e.values) > 1 for e in entries) else [means]}
        | {"layout": layout},
        about if noise else "One seed each: how much of this is noise is unknown.",
        height=90 + 30 * len(entries),
        wide=True,
        min_width=560,
    )


def _dots(x: list[float], y: list[str], marker: dict[str, Any]) -> Figure:
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "marker": marker}


# Curves of the metric.


def _over_tokens(comparison: Comparison, ranking: Ranking, top: int) -> Chart:
    data = _metric_lines(comparison, ranking, top, lambda trial: trial.curve.tokens)
    layout = _metric_layout(comparison, data, "tokens")
    layout["xaxis"] |= {"exponentformat": "B", "hoverformat": ",d"}
    _mark(layout, ranking.view("tokens"), 1.0)
    return Chart(
        f"{comparison.metric} over tokens", {"data": data, "layout": layout}, height=460, wide=True
    )


def _over_compute(comparison: Comparison, ranking: Ranking, top: int) -> Chart | None:
    timed = [t for t in comparison.trials if t.curve and t.curve.seconds]
    if not timed:
        return None
    size, unit = device_unit(max(trial.curve.seconds[-1] for trial in timed if trial.curve))

    def hours(trial: Trial) -> list[float]:
        assert trial.curve is not None
        return [rounded(seconds / size) for seconds in trial.curve.seconds]

    data = _metric_lines(comparison, ranking, top, hours)
    layout = _metric_layout(comparison, data, unit)
    _mark(layout, ranking.view("compute"), size)
    return Chart(
        f"{comparison.metric} over {unit}",
        {"data": data, "layout": layout},
        "Time of training on all devices together, as if each trial had been trained alone.",
        height=460,
        wide=True,
    )


def _metric_lines(comparison: Comparison, ranking: Ranking, top: int, places: Any) -> list[Figure]:
    """A line a trial, the best on top. What another trial trained is drawn with that one."""
    data: list[Figure] = []
    shown = {trial.name for trial in comparison.trials if trial.curve}
    most = max(40, MOST_POINTS // max(1, len(shown)))
    for number, configuration in reversed(list(enumerate(ranking.order))):
        drawn = [trial for trial in configuration.trials if trial.curve and len(places(trial))]
        for trial in drawn:
            assert trial.curve is not None
            rows = _own_rows(trial, most, joined=trial.parent in shown)
            x = places(trial)
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines" if len(rows) > 1 else "markers",
                    "name": name_of(ranking, configuration) if number < top else "others",
                    "legendgroup": str(number) if number < top else "others",
                    "legendrank": number,
                    "showlegend": trial is drawn[0] and (number < top or number == top),
                    "x": [x[row] for row in rows],
                    "y": [rounded(trial.curve.values[row]) for row in rows],
                    "text": plain(cut(f"{trial.label}, seed {trial.seed}", 60)),
                    "hovertemplate": "%{y:.4f} at %{x}<br>%{text}<extra></extra>",
                    "line": {
                        "color": colour_of(ranking, configuration, top),
                        "width": width_of(number, top),
                    },
                }
            )
    return data


def _own_rows(trial: Trial, most: int, *, joined: bool) -> list[int]:
    """At most about `most` rows of a trial's curve, from the last one before its fork on."""
    assert trial.curve is not None
    tokens = trial.curve.tokens
    first = 0
    if joined:
        first = max(0, int(np.searchsorted(tokens, trial.fork_tokens, side="right")) - 1)
    count = len(tokens) - first
    step = max(1, math.ceil(count / most))
    return sorted({*range(first, len(tokens), step), len(tokens) - 1})


def _metric_layout(comparison: Comparison, data: Sequence[Figure], below: str) -> Figure:
    layout = base_layout(below)
    layout["hovermode"] = "closest"
    layout["showlegend"] = True
    layout["legend"] = {
        "orientation": "h",
        "x": 0,
        "y": 0,
        "yref": "container",
        "yanchor": "bottom",
    }
    layout["margin"]["t"] = 34
    whole = {"xaxis.autorange": True, "yaxis.autorange": True}
    views: list[tuple[str, dict[str, Any]]] = [
        ("all", {**whole, "yaxis.type": "linear"}),
        ("log", {**whole, "yaxis.type": "log"}),
    ]
    if late := _late(data):
        layout["xaxis"]["range"], layout["yaxis"]["range"] = late
        close = {"yaxis.type": "linear", "xaxis.range": late[0], "yaxis.range": late[1]}
        views.insert(0, ("end", close))
    layout["updatemenus"] = [
        {
            "type": "buttons",
            "direction": "right",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "pad": {"t": 0, "r": 0, "b": 2, "l": 0},
            "bgcolor": "#ffffff",
            "bordercolor": "#e8ebf1",
            "font": {"size": 11},
            "buttons": [
                {"label": name, "method": "relayout", "args": [change]} for name, change in views
            ],
        }
    ]
    return layout


def _late(data: Sequence[Figure]) -> tuple[list[float], list[float]] | None:
    """The ranges of the latter part of the curves, where they differ; nothing without one."""
    ends = [trace["x"][-1] for trace in data]
    end = max(ends)
    begin = min(LATE * end, 0.7 * float(np.quantile(ends, 0.25)))
    points = [
        (x, value)
        for trace in data
        for x, value in zip(trace["x"], trace["y"], strict=True)
        if x >= begin
    ]
    values = [value for _, value in points]
    if len({x for x, _ in points}) < 2:
        return None
    low, high = min(values), float(np.quantile(values, 0.995))
    margin = 0.04 * (high - low)
    return [begin, end + 0.01 * (end - begin)], [low - margin, high + margin]


def _mark(layout: Figure, view: View | None, size: float) -> None:
    """Where trials are compared at equal tokens or compute."""
    if view is None or view.at is None:
        return
    at = view.at / size
    line = {"color": GREY, "width": 1, "dash": "dot"}
    layout["shapes"] = [
        {"type": "line", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": line}
    ]
    layout["annotations"] = [
        {
            "x": at,
            "y": 1,
            "yref": "paper",
            "xanchor": "right",
            "yanchor": "top",
            "text": "all reached",
            "showarrow": False,
            "xshift": -3,
            "font": {"size": 11, "color": DARK_GREY},
        }
    ]


# Schedules.


def _rates(ranking: Ranking, top: int) -> Chart | None:
    chosen = _one_of_each(ranking.order, "lr_segments")
    return _schedules(
        ranking,
        top,
        "Learning rate over tokens",
        [(configuration, lr_line(schedule, CURVED)) for configuration, schedule in chosen],
        ".1e",
    )


def _batches(ranking: Ranking, top: int) -> Chart | None:
    chosen = _one_of_each(ranking.order, "batch_segments")
    return _schedules(
        ranking,
        top,
        "Batch size over tokens (samples)",
        [(configuration, batch_line(schedule)) for configuration, schedule in chosen],
        None,
    )


def _one_of_each(order: Iterable[Configuration], part: str) -> list[tuple[Configuration, Any]]:
    """The best configuration of each schedule: equal ones would hide each other."""
    found: dict[Any, tuple[Configuration, Any]] = {}
    for configuration in order:
        schedule = next((trial.schedule for trial in configuration.trials if trial.schedule), None)
        if schedule is not None:
            key = getattr(schedule, part), schedule.horizon
            found.setdefault(key, (configuration, schedule))
    return list(found.values())


def _schedules(
    ranking: Ranking, top: int, title: str, lines: list[tuple[Configuration, Any]], ticks: Any
) -> Chart | None:
    if not lines:
        return None
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name_of(ranking, configuration),
            "x": [rounded(x) for x in tokens],
            "y": [rounded(y) for y in values],
            "hovertemplate": "%{y} at %{x}<extra>" + name_of(ranking, configuration) + "</extra>",
            "line": {
                "color": colour_of(ranking, configuration, top),
                "width": width_of(ranking.order.index(configuration), top),
            },
        }
        for configuration, (tokens, values) in reversed(lines)
    ]
    layout = base_layout("tokens")
    layout["hovermode"] = "closest"
    layout["xaxis"] |= {"exponentformat": "B", "hoverformat": ",d"}
    layout["yaxis"]["rangemode"] = "tozero"
    if ticks:
        layout["yaxis"]["tickformat"] = ticks
    many = f"{len(lines)} different ones, each in the colour of the best that has it."
    note = many if len(lines) > 1 else "The same for all."
    return Chart(title, {"data": data, "layout": layout}, note)
