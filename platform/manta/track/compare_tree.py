"""The stage tree of a sweep: who trained which tokens, and for whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from manta.track import figures as words
from manta.track.compare import Comparison, Trial
from manta.track.compare_style import (
    Chart,
    Figure,
    cut,
    metric_colour,
    metric_range,
    metric_scale,
    plain,
)
from manta.track.ranking import Ranking
from manta.track.report_figures import DARK_GREY, base_layout

# More names than this can't be read beside their bars.
MOST_NAMES = 60
NO_VALUE = "#cfd5df"
# How a trial ended, if not by finishing: a sign at the end of its bar.
SIGNS = {
    "diverged": ("x", "#c53030"),
    "failed": ("x-open", "#c53030"),
    "paused": ("line-ns-open", "#1d2433"),
    "stopped": ("square-open", "#1d2433"),
    "running": ("triangle-right", "#b7791f"),
    "lost": ("x-open", "#5b6475"),
    "waiting": ("circle-open", "#5b6475"),
}


def tree(comparison: Comparison, ranking: Ranking) -> Chart | None:
    """Each trial's own stretch as a bar, joined to the trial that it was forked from."""
    tokens = comparison.tokens
    if tokens is None or all(trial.parent is None for trial in comparison.trials):
        return None
    rows = in_tree_order(comparison.trials, ranking)
    place = {trial.name: number for number, trial in enumerate(rows)}
    data = [*_plans(rows), *_bars(comparison, rows), _forks(rows, place), _shared(rows, place)]
    data += list(_signs(rows))
    named = len(rows) <= MOST_NAMES
    seeds = len({trial.seed for trial in rows}) > 1
    layout = base_layout("tokens")
    layout["hovermode"] = "closest"
    layout["barmode"] = "overlay"
    layout["bargap"] = 0.3
    layout["showlegend"] = True
    layout["legend"] = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    layout["margin"] = {"l": 8, "r": 8, "t": 30, "b": 44}
    layout["xaxis"] |= {"exponentformat": "B", "hoverformat": ",d", "rangemode": "tozero"}
    layout["yaxis"] |= {
        "range": [len(rows) - 0.4, -0.6],
        "tickvals": list(range(len(rows))) if named else [],
        "ticktext": [_label(trial, seeds=seeds) for trial in rows] if named else [],
        "gridcolor": "rgba(0,0,0,0)",
    }
    saved = tokens.apart / tokens.trained if tokens.trained else 1.0
    return Chart(
        "Stage tree: what was trained, and what was shared",
        {"data": data, "layout": layout},
        f"A bar is what a trial trained itself; the dark line in it is what others went on from. "
        f"{words.count(tokens.trained)} tokens were trained; apart, it would have been "
        f"{words.count(tokens.apart)}: {saved:.2f} times as many.",
        height=110 + len(rows) * (22 if named else 9),
        wide=True,
        min_width=680,
    )


def _label(trial: Trial, *, seeds: bool) -> str:
    return plain(cut(trial.label)) + (f"  s{trial.seed}" if seeds else "")


def in_tree_order(trials: Sequence[Trial], ranking: Ranking) -> list[Trial]:
    """The trials so that lines from parents to children don't cross: the latest fork first."""
    rank = {
        trial: number
        for number, configuration in enumerate(ranking.order)
        for trial in configuration.trials
    }
    children: dict[str | None, list[Trial]] = {}
    for trial in trials:
        children.setdefault(trial.parent, []).append(trial)
    found = []
    todo = sorted(children.get(None, []), key=lambda t: (t.seed, rank[t]), reverse=True)
    while todo:
        trial = todo.pop()
        found.append(trial)
        below = children.get(trial.name, [])
        todo += sorted(below, key=lambda t: (t.fork_tokens, -rank[t]))
    return found


def _bars(comparison: Comparison, rows: Sequence[Trial]) -> Iterator[Figure]:
    """The own stretch of each trial in the colour of its value, and the key to the colours."""
    values = [trial.value for trial in rows if trial.value is not None]
    low, high = metric_range(values, comparison.mode)
    yield {
        "type": "bar",
        "orientation": "h",
        "showlegend": False,
        "y": list(range(len(rows))),
        "base": [min(trial.fork_tokens, trial.reached) for trial in rows],
        "x": [trial.own_tokens for trial in rows],
        "text": [_about(comparison, trial) for trial in rows],
        "textposition": "none",
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "color": [
                NO_VALUE
                if trial.value is None
                else metric_colour(trial.value, low, high, comparison.mode)
                for trial in rows
            ],
        },
    }
    # Bars can't have numbers for colours without complaints: the key belongs to unseen points.
    yield {
        "type": "scatter",
        "mode": "markers",
        "name": "key",
        "showlegend": False,
        "hoverinfo": "skip",
        "x": [0, 0],
        "y": [0, 0],
        "marker": {
            "opacity": 0,
            "color": [low, high],
            "colorscale": metric_scale(comparison.mode),
            "cmin": low,
            "cmax": high,
            "showscale": True,
            "colorbar": {
                "title": {"text": comparison.metric, "side": "right"},
                "thickness": 10,
                "outlinewidth": 0,
                "len": 0.9,
            },
        },
    }


def _about(comparison: Comparison, trial: Trial) -> str:
    value = "no value yet" if trial.value is None else f"{comparison.metric} {trial.value:.4f}"
    lines = [f"<b>{plain(trial.label)}</b>, seed {trial.seed}", f"{trial.status}, {value}"]
    lines.append(
        f"{words.count(trial.own_tokens)} tokens of its own, "
        f"{words.count(trial.shared_tokens)} from {plain(trial.parent or 'nobody')}"
    )
    if trial.reason:
        lines.append(plain(cut(trial.reason, 90)))
    return "<br>".join(lines)


def _plans(rows: Sequence[Trial]) -> Iterator[Figure]:
    """What trials have still to train, or never will."""
    x: list[Any] = []
    y: list[Any] = []
    for number, trial in enumerate(rows):
        begin = max(trial.reached, trial.fork_tokens)
        if trial.status in ("waiting", "running", "paused") and trial.end_tokens > begin:
            x += [begin, trial.end_tokens, None]
            y += [number, number, None]
    if x:
        yield _lines("not trained", x, y, {"color": "#b9c1ce", "width": 1.5, "dash": "dot"})


def _forks(rows: Sequence[Trial], place: dict[str, int]) -> Figure:
    x: list[Any] = []
    y: list[Any] = []
    for trial in rows:
        if trial.parent is not None:
            x += [trial.fork_tokens, trial.fork_tokens, None]
            y += [place[trial.parent], place[trial.name], None]
    return {**_lines("fork", x, y, {"color": DARK_GREY, "width": 1}), "showlegend": False}


def _shared(rows: Sequence[Trial], place: dict[str, int]) -> Figure:
    """The stretch of each trial that others went on from."""
    last: dict[str, int] = {}
    for trial in rows:
        if trial.parent is not None:
            last[trial.parent] = max(last.get(trial.parent, 0), trial.fork_tokens)
    x: list[Any] = []
    y: list[Any] = []
    begins = {trial.name: trial.fork_tokens for trial in rows}
    for name, end in last.items():
        x += [begins[name], end, None]
        y += [place[name], place[name], None]
    return _lines("shared with others", x, y, {"color": "#1d2433", "width": 2.5})


def _signs(rows: Sequence[Trial]) -> Iterator[Figure]:
    for status, (symbol, colour) in SIGNS.items():
        ended = [(number, trial) for number, trial in enumerate(rows) if trial.status == status]
        if ended:
            yield {
                "type": "scatter",
                "mode": "markers",
                "name": status,
                "x": [max(trial.reached, trial.fork_tokens) for _, trial in ended],
                "y": [number for number, _ in ended],
                "hoverinfo": "skip",
                "marker": {"symbol": symbol, "color": colour, "size": 9, "line": {"width": 2}},
            }


def _lines(name: str, x: list[Any], y: list[Any], line: dict[str, Any]) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "line": line,
        "hoverinfo": "skip",
    }
