"""The charts of a report, as Plotly describes them: traces and layout, plain data."""

from __future__ import annotations

from typing import Any

from manta.track.series import Series
from manta.track.state import RunState

BLUE, ORANGE, GREEN, PURPLE, GREY = "#2f6fde", "#e8710a", "#188a5b", "#7a4fd0", "#9aa3b2"
INK, FAINT, DARK_GREY = "#1d2433", "#e8ebf1", "#5b6475"
FONT = "Inter, system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
# Beyond these, labels lie on top of each other.
MOST_LABELS = 8

Figure = dict[str, Any]

# Column, title, colour, hover format, whether it is a staircase.
SMALL_CHARTS = (
    ("lr", "Learning rate", PURPLE, ".3e", False),
    ("batch_size", "Batch size (samples)", GREEN, ",d", True),
    ("tokens_per_s", "Throughput (tokens/s)", BLUE, ",.0f", False),
    ("world_size", "World size (workers)", ORANGE, "d", True),
    ("grad_norm", "Gradient norm", GREY, ".4f", False),
    ("mfu", "Model FLOPs utilisation", GREEN, ".1%", False),
    ("time_data", "Waiting for data (s per step)", ORANGE, ".2s", False),
    ("time_communication", "Waiting for other workers (s per step)", BLUE, ".2s", False),
    ("peak_memory", "Peak memory (bytes)", PURPLE, ".3s", False),
)
TICKS = {"lr": ".1e", "world_size": "d", "mfu": ".0%"}


def figures(state: RunState, training: Series, validation: Series) -> list[Figure]:
    """The loss, then a chart for each quantity that the run has."""
    restarts = _restarts(state)
    drawn = [_loss(training, validation, restarts)]
    rows = training.thinned("loss")
    tokens = training.values("tokens", rows)
    steps = training.values("step", rows)
    for name, title, color, form, stairs in SMALL_CHARTS:
        if not training.has(name):
            continue
        trace = _trace(title, tokens, training.values(name, rows), steps, form)
        trace["line"] = {"color": color, "width": 1.6, "shape": "hv" if stairs else "linear"}
        layout = _layout(restarts, labelled=False)
        layout["yaxis"]["rangemode"] = "tozero"
        if name in TICKS:
            layout["yaxis"]["tickformat"] = TICKS[name]
        if name == "world_size":  # workers come whole: no ticks between them
            layout["yaxis"]["nticks"] = min(6, max(state.world_sizes, default=1) + 1)
        drawn.append({"title": title, "data": [trace], "layout": layout})
    return drawn


def draw_against(loss: Figure, name: str, other: Series) -> None:
    """Draw another run's training loss over the loss of this one.

    Over it, and in dashes: where the two are equal, this run's line shows between them.
    """
    rows = other.thinned("loss")
    trace = _trace(
        name,
        other.values("tokens", rows),
        other.values("loss", rows),
        other.values("step", rows),
        ".4f",
    )
    trace["line"] = {"color": DARK_GREY, "width": 1.4, "dash": "dash"}
    loss["data"].append(trace)


def _loss(training: Series, validation: Series, restarts: list[dict[str, Any]]) -> Figure:
    rows = training.thinned("loss")
    trace = _trace(
        "Training",
        training.values("tokens", rows),
        training.values("loss", rows),
        training.values("step", rows),
        ".4f",
    )
    trace["line"] = {"color": BLUE, "width": 1.4}
    data = [trace]
    if len(validation):
        rows = validation.thinned("val_loss")
        over = _trace(
            "Validation",
            validation.values("tokens", rows),
            validation.values("val_loss", rows),
            validation.values("step", rows),
            ".4f",
        )
        over["mode"] = "lines+markers"
        over["line"] = {"color": ORANGE, "width": 2.2}
        over["marker"] = {"size": 6, "color": ORANGE}
        data.append(over)
    layout = _layout(restarts, labelled=True)
    layout["showlegend"] = True
    layout["updatemenus"] = [scale_switch()]
    return {"title": "Loss (nats per token)", "data": data, "layout": layout}


def scale_switch() -> Figure:
    """The first steps lose the most; on a logarithmic axis the rest can be seen as well."""
    return {
        "type": "buttons",
        "direction": "right",
        "x": 0,
        "xanchor": "left",
        "y": 1.02,
        "yanchor": "bottom",
        "pad": {"t": 0, "r": 0, "b": 2, "l": 0},
        "showactive": True,
        "bgcolor": "#ffffff",
        "bordercolor": FAINT,
        "font": {"size": 11},
        "buttons": [
            {"label": kind, "method": "relayout", "args": [{"yaxis.type": kind}]}
            for kind in ("linear", "log")
        ],
    }


def _trace(name: str, x: list[Any], y: list[Any], steps: list[Any], form: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "customdata": steps,
        "hovertemplate": f"%{{y:{form}}} at step %{{customdata:,d}}",
    }


def _restarts(state: RunState) -> list[dict[str, Any]]:
    """Where workers were started again: the tokens at which they went on, and a label."""
    found = []
    for before, group in zip(state.groups, state.groups[1:], strict=False):
        change = (
            f"{before.world_size} → {group.world_size}"
            if before.world_size != group.world_size
            else "restart"
        )
        found.append({"tokens": group.tokens, "label": change})
    return found


def _layout(restarts: list[dict[str, Any]], *, labelled: bool) -> Figure:
    layout = {**base_layout("tokens"), "shapes": [_mark(restart) for restart in restarts]}
    layout["xaxis"] |= {"exponentformat": "B", "hoverformat": ",d"}
    if labelled and len(restarts) <= MOST_LABELS:
        layout["annotations"] = [_label(restart) for restart in restarts]
    return layout


def base_layout(below: str) -> Figure:
    """What all charts look like; `below` is the title of the horizontal axis."""
    axis = {"gridcolor": FAINT, "zeroline": False, "linecolor": FAINT, "automargin": True}
    return {
        "template": "none",
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 16, "t": 26, "b": 44},
        "hovermode": "x unified",
        "showlegend": False,
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
        "xaxis": {**axis, "title": {"text": below}},
        "yaxis": {**axis, "exponentformat": "SI"},
    }


def _mark(restart: dict[str, Any]) -> Figure:
    return {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": restart["tokens"],
        "x1": restart["tokens"],
        "y0": 0,
        "y1": 1,
        "line": {"color": GREY, "width": 1, "dash": "dot"},
    }


def _label(restart: dict[str, Any]) -> Figure:
    return {
        "x": restart["tokens"],
        "y": 1,
        "xref": "x",
        "yref": "paper",
        "yanchor": "top",
        "xanchor": "left",
        "text": restart["label"],
        "showarrow": False,
        "font": {"size": 11, "color": DARK_GREY},
        "xshift": 3,
    }
