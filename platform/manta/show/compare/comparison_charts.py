"""The charts of a comparison over tokens and compute."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from manta.schedule.lines import batch_line, lr_line
from manta.show.compare.chart_style import colour_of, cut, name_of, rounded, width_of
from manta.show.compare.comparison import ComparedRun, Comparison, Configuration
from manta.show.compare.parameter_charts import importance_chart, parallel_chart
from manta.show.compare.ranking import Ranking, View
from manta.show.compare.verdict import device_unit, value_text, view_name
from manta.show.pages.charts import SOFT, TOKENS, Figure, lines, rows, series

# Most points of all lines in a chart together; more can't be seen and make the page large.
MOST_POINTS = 6_000
# Points for a curved segment of a schedule: for a single one, and for all of many together.
CURVED, MOST_CURVED = 80, 2400
# Early losses are so high that late ones look alike: the chart first shows the part of a run
# after this share.
LATE = 0.45


def charts(comparison: Comparison, ranking: Ranking, top: int) -> list[Figure]:
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


# How much better a configuration is, and how sure that is.


def _means(comparison: Comparison, ranking: Ranking, top: int) -> Figure | None:
    view = ranking.main
    if view is None or len(view.entries) < 2:
        return None
    entries = view.entries[:top]
    noise = all(entry.estimate.half is not None for entry in entries)
    several = any(len(entry.values) > 1 for entry in entries)
    means: list[Figure] = [
        {
            "row": row,
            "x": entry.estimate.mean,
            "half": entry.estimate.half if noise else None,
            "color": colour_of(ranking, entry.configuration, top),
            "text": value_text(entry),
        }
        for row, entry in enumerate(entries)
    ]
    seeds: list[Figure] = [
        {
            "row": row,
            "x": value,
            "shape": "ring",
            "color": SOFT,
            "text": f"{value:.4f}, seed {trial.seed}",
        }
        for row, entry in enumerate(entries)
        for value, trial in zip(entry.values, entry.trials, strict=True)
        if several
    ]
    halves = [one["half"] or 0.0 for one in means]
    spread = [(dot["x"] - half, dot["x"] + half) for dot, half in zip(means, halves, strict=True)]
    spread += [(dot["x"], dot["x"]) for dot in seeds]
    low, high = min(low for low, _ in spread), max(high for _, high in spread)
    margin = 0.04 * (high - low) or 0.01 * abs(high) or 1.0
    about = "Large dots are means, circles are seeds, bars are 95 % confidence intervals."
    return rows(
        f"{comparison.metric} {view_name(view)}",
        [name_of(ranking, entry.configuration) for entry in entries],
        x={"title": comparison.metric, "range": [low - margin, high + margin]},
        height=60 + 30 * len(entries),
        dots=[*means, *seeds],
        note=about if noise else "One seed each: the share of noise is unknown.",
        whole=True,
    )


# Curves of the metric.


def _over_tokens(comparison: Comparison, ranking: Ranking, top: int) -> Figure:
    data = _metric_lines(comparison, ranking, top, lambda trial: trial.curve.tokens)
    return _metric_figure(comparison, data, "tokens", TOKENS, _marks(ranking.view("tokens"), 1.0))


def _over_compute(comparison: Comparison, ranking: Ranking, top: int) -> Figure | None:
    timed = [t for t in comparison.trials if t.curve and t.curve.seconds]
    if not timed:
        return None
    size, unit = device_unit(max(trial.curve.seconds[-1] for trial in timed if trial.curve))

    def hours(trial: ComparedRun) -> list[float]:
        assert trial.curve is not None
        return [rounded(seconds / size) for seconds in trial.curve.seconds]

    data = _metric_lines(comparison, ranking, top, hours)
    marks = _marks(ranking.view("compute"), size)
    figure = _metric_figure(comparison, data, unit, {"title": unit}, marks)
    note = "Device time of training steps, as if each trial had been trained alone."
    return {**figure, "note": note}


def _metric_lines(comparison: Comparison, ranking: Ranking, top: int, xs: Any) -> list[Figure]:
    """A line for each trial, the best on top. Shared steps are drawn with who trained them."""
    data: list[Figure] = []
    shown = {trial.name for trial in comparison.trials if trial.curve}
    most = max(40, MOST_POINTS // max(1, len(shown)))
    for number, configuration in reversed(list(enumerate(ranking.ranked))):
        drawn = [trial for trial in configuration.trials if trial.curve and len(xs(trial))]
        for trial in drawn:
            assert trial.curve is not None
            kept = _own_rows(trial, most, joined=trial.parent in shown)
            x = xs(trial)
            shade = colour_of(ranking, configuration, top)
            named = number < top
            data.append(
                series(
                    name_of(ranking, configuration) if named else "others",
                    [x[row] for row in kept],
                    [rounded(trial.curve.values[row]) for row in kept],
                    shade,
                    width=width_of(number, top),
                    text=cut(f"{trial.label}, seed {trial.seed}", 60),
                    legend=trial is drawn[0] and (named or number == top),
                )
            )
    return data


def _own_rows(trial: ComparedRun, most: int, *, joined: bool) -> list[int]:
    """About `most` rows at most of a trial's curve, from the last one before its fork on."""
    assert trial.curve is not None
    tokens = trial.curve.tokens
    first = 0
    if joined:
        first = max(0, int(np.searchsorted(tokens, trial.fork_tokens, side="right")) - 1)
    count = len(tokens) - first
    step = max(1, math.ceil(count / most))
    return sorted({*range(first, len(tokens), step), len(tokens) - 1})


def _metric_figure(
    comparison: Comparison, data: Sequence[Figure], over: str, x: Figure, marks: list[Figure]
) -> Figure:
    views: list[Figure] = [{"name": "all"}, {"name": "log", "log": True}]
    if late := _late(data):
        views.insert(0, {"name": "end", "x": late[0], "y": late[1]})
    # Draw the best last, so that it is on top, but list it first in the legend.
    return lines(
        f"{comparison.metric} over {over}",
        data,
        x=x,
        y={"format": "loss"},
        height=400,
        views=views,
        marks=marks,
        closest=True,
        reversed=True,
        whole=True,
    )


def _late(data: Sequence[Figure]) -> tuple[list[float], list[float]] | None:
    """The axis ranges of the later part of the curves, where they differ; None if too short."""
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


def _marks(view: View | None, size: float) -> list[Figure]:
    """Vertical marks where trials are compared at equal tokens or compute."""
    if view is None or view.at is None:
        return []
    return [{"x": view.at / size, "label": "all reached"}]


# Schedules.


def _rates(ranking: Ranking, top: int) -> Figure | None:
    chosen = _one_of_each(ranking.ranked, "lr_segments")
    points = max(16, min(CURVED, MOST_CURVED // max(1, len(chosen))))
    drawn = [(configuration, lr_line(schedule, points)) for configuration, schedule in chosen]
    return _schedules(ranking, top, "Learning rate over tokens", drawn, "rate")


def _batches(ranking: Ranking, top: int) -> Figure | None:
    chosen = _one_of_each(ranking.ranked, "batch_segments")
    drawn = [(configuration, batch_line(schedule)) for configuration, schedule in chosen]
    return _schedules(ranking, top, "Batch size over tokens (samples)", drawn, "number")


def _one_of_each(order: Iterable[Configuration], part: str) -> list[tuple[Configuration, Any]]:
    """The best configuration for each distinct schedule: equal curves would hide each other."""
    found: dict[Any, tuple[Configuration, Any]] = {}
    for configuration in order:
        schedule = next((trial.schedule for trial in configuration.trials if trial.schedule), None)
        if schedule is not None:
            key = getattr(schedule, part), schedule.horizon
            found.setdefault(key, (configuration, schedule))
    return list(found.values())


def _schedules(
    ranking: Ranking, top: int, title: str, drawn: list[tuple[Configuration, Any]], form: str
) -> Figure | None:
    if not drawn:
        return None
    data = [
        series(
            name_of(ranking, configuration),
            [rounded(x) for x in tokens],
            [rounded(y) for y in values],
            colour_of(ranking, configuration, top),
            width=width_of(ranking.ranked.index(configuration), top),
            exact=True,
        )
        for configuration, (tokens, values) in reversed(drawn)
    ]
    many = f"{len(drawn)} different schedules, each in the colour of its best configuration."
    note = many if len(drawn) > 1 else "The same schedule for all."
    return lines(title, data, y={"format": form, "zero": True}, closest=True, note=note)
