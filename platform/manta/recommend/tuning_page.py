"""The page of a tuning: what each phase measured, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from manta.recommend.measured import Confirmed, CriticalFound, RangeFound
from manta.recommend.tuning_phases import Tuning
from manta.recommend.tuning_state import TuningState
from manta.recommend.tuning_summary import findings, interval, saving_text
from manta.record import number_format
from manta.schedule.lines import batch_line, lr_line
from manta.show.pages import page as html
from manta.show.pages.charts import BLUE, COLOURS, GREEN, GREY, ORANGE, Figure, lines, rows, series

ROW = 26  # pixels
AROUND = 70


def write_tuning_page(path: Path, tuning: Tuning, state: TuningState) -> Path:
    """Write the page to `path` atomically; returns `path`.

    Raises:
        RunError: if the file can't be written.
    """
    figures = list(_figures(tuning, state))
    parts = [
        html.header(f"Tuning {state.name}", state.status, findings(tuning, state)),
        html.charts(figures),
        *_tables(tuning, state),
    ]
    html.write(path, f"Tuning {state.name} – Manta", "\n".join(parts), figures, "tuning.storage")
    return path


def _figures(tuning: Tuning, state: TuningState) -> Iterator[Figure]:
    if state.range:
        yield _rates(state.range)
        if len(state.range.ramp) > 1:
            yield _ramp(state.range)
    if state.critical:
        yield _critical(state.critical)
    yield from _schedules(tuning, state)
    if state.savings:
        yield _savings(state)
    if state.confirm and state.confirm.gap:
        yield _confirmed(state.confirm)


def _rates(found: RangeFound) -> Figure:
    """Loss at each rate, for the longest runs, and the recommended rates."""
    longest = max(each.tokens for each in found.losses)
    here = sorted((e for e in found.losses if e.tokens == longest), key=lambda e: e.rate)
    names = [f"{each.rate:.3g}" for each in here]
    means = [float(np.mean(each.losses)) if each.losses else None for each in here]
    known = [mean for mean in means if mean is not None]
    low, high = min(known), max(known)
    margin = 0.05 * (high - low or 1.0)
    dots = [
        {
            "row": row,
            "x": loss,
            "color": BLUE,
            "shape": "circle",
            "text": f"{names[row]}: {loss:.4f}",
        }
        for row, each in enumerate(here)
        for loss in each.losses
    ]
    dots += [
        {"row": row, "x": mean, "color": ORANGE, "shape": "diamond", "text": f"mean {mean:.4f}"}
        for row, mean in enumerate(means)
        if mean is not None
    ]
    lost = [name for name, each in zip(names, here, strict=True) if each.diverged]
    note = f"After {number_format.count(longest)} tokens each, the last fifth of them a decay."
    if lost:
        note += f" Diverged: {', '.join(lost)}."
    figure = rows(
        "Validation loss by learning rate",
        names,
        x={"title": "nats", "range": [low - margin, high + margin], "format": "number"},
        height=AROUND + ROW * len(here),
        dots=dots,
        legend=[["a seed", BLUE, "circle"], ["mean", ORANGE, "diamond"]],
    )
    return {**figure, "note": note}


def _ramp(found: RangeFound) -> Figure:
    """The trunk's smoothed training loss by the logarithm of its rate."""
    rates = [math.log10(row.rate) for row in found.ramp]
    losses = [row.loss for row in found.ramp]
    marks = [{"x": math.log10(found.best.value), "label": "best"}]
    if found.edge:
        marks.append({"x": math.log10(found.edge), "label": "edge"})
    axis = {"title": "log10(learning rate)", "format": "number", "exact": "number"}
    data = [series("Training loss", rates, losses, GREY)]
    figure = lines("Loss on the way through the rates", data, x=axis, marks=marks)
    return {
        **figure,
        "note": "The trunk of the range test, smoothed: it shows where training "
        "breaks, not which rate is best.",
    }


def _critical(found: CriticalFound) -> Figure:
    """Loss by batch size, over that of the best one, for each depth."""
    depths = sorted({each.depth for each in found.losses})
    data = []
    for index, depth in enumerate(depths):
        here = sorted((e for e in found.losses if e.depth == depth), key=lambda e: e.size)
        kept = [(e.size, [x for x in e.losses if x is not None]) for e in here]
        means = [(math.log2(size), float(np.mean(losses))) for size, losses in kept if losses]
        lowest = min((mean for _, mean in means), default=0.0)
        name = f"after {number_format.count(depth)}"
        values = [mean - lowest for _, mean in means]
        colour = COLOURS[index % len(COLOURS)]
        sizes = [size for size, _ in means]
        data.append(series(name, sizes, values, colour, dots=True, legend=True))
    axis = {"title": "log2(batch size)", "format": "number", "exact": "number"}
    figure = lines("Loss above the best batch", data, x=axis, y={"format": "number", "zero": True})
    return {**figure, "note": "Nats of validation loss after forks to equal tokens."}


def _schedules(tuning: Tuning, state: TuningState) -> Iterator[Figure]:
    """Batch size and rate of the run, as it was and as it is tuned."""
    both = (("as given", GREY, tuning.schedule), ("tuned", GREEN, tuning.tuned_schedule(state)))
    for title, line, form in (
        ("Batch size (samples)", batch_line, "number"),
        ("Learning rate", lr_line, "rate"),
    ):
        data = []
        for name, colour, schedule in both:
            tokens, values = line(schedule)
            x, y = [float(t) for t in tokens], [number_format.significant(v, 6) for v in values]
            data.append(series(name, x, y, colour, width=2.0, exact=True, legend=True))
        figure = lines(title, data, y={"format": form, "zero": True})
        if title.startswith("Batch") and state.critical:
            text = "; ".join(
                f"{interval(each.size, 'size')} after {number_format.count(each.depth)}"
                for each in state.critical.at
            )
            figure["note"] = f"Critical: {text}."
        yield figure


def _savings(state: TuningState) -> Figure:
    x = [each.devices for each in state.savings]
    data = [
        series("constant batch", x, [e.constant_hours for e in state.savings], GREY, legend=True),
        series("tuned", x, [e.tuned_hours for e in state.savings], GREEN, legend=True),
    ]
    axis = {"title": "devices", "format": "whole", "exact": "whole"}
    figure = lines("Hours by devices", data, x=axis, y={"format": "number", "zero": True})
    return {**figure, "note": "By measured step times; without the exchange between devices."}


def _confirmed(found: Confirmed) -> Figure:
    """Losses by seed of both."""
    names, dots = ["constant batch", "tuned schedule"], []
    for row, losses in enumerate((found.constant, found.tuned)):
        for loss in losses:
            dots.append({"row": row, "x": loss, "color": (GREY, GREEN)[row], "shape": "circle"})
    values = [dot["x"] for dot in dots if isinstance(dot["x"], float)]
    margin = 0.1 * (max(values) - min(values) or 1.0)
    axis = {
        "title": "nats",
        "range": [min(values) - margin, max(values) + margin],
        "format": "number",
    }
    figure = rows("Confirmation", names, x=axis, height=AROUND + ROW * 2, dots=dots)
    return {**figure, "note": found.verdict}


def _tables(tuning: Tuning, state: TuningState) -> Iterator[str]:
    if state.range:
        yield html.table(
            "Range test",
            ["rate", "tokens", "losses by seed", "diverged"],
            [
                (f"{e.rate:.3g}", f"{e.tokens:,}", _losses(e.losses), str(e.diverged))
                for e in state.range.losses
            ],
        )
    if state.critical:
        yield html.table(
            "Forks",
            ["depth", "batch", "losses by seed"],
            [(f"{e.depth:,}", f"{e.size}", _losses(e.losses)) for e in state.critical.losses],
        )
    if state.savings:
        yield html.facts("Time and money", [("", saving_text(each)) for each in state.savings])


def _losses(losses: list[float | None] | list[float]) -> str:
    return ", ".join("diverged" if loss is None else f"{loss:.4f}" for loss in losses) or "–"
