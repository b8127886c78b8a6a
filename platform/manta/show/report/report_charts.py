"""The charts of a run's report."""

from __future__ import annotations

from typing import Any

from manta.config.metrics import TOKENS_OF, VAL_LOSS, VAL_LOSS_AVERAGE
from manta.record.noise_scale import NOISE_SCALE
from manta.record.number_format import significant
from manta.record.run_state import RunState
from manta.schedule import Schedule
from manta.schedule.lines import batch_line, lr_line
from manta.show.pages.charts import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SOFT,
    TOKENS,
    Figure,
    lines,
    series,
)
from manta.show.report.series import Series

# With more labels than this, they would overlap.
MOST_LABELS = 8
GIB = 2.0**30

# For each chart: column, title, colour, format, divisor of the values, whether it is a staircase.
SMALL_CHARTS = (
    ("lr", "Learning rate", PURPLE, "rate", 1.0, False),
    ("batch_size", "Batch size (samples)", GREEN, "number", 1.0, True),
    ("tokens_per_s", "Throughput (tokens/s)", BLUE, "count", 1.0, False),
    ("world_size", "World size (workers)", ORANGE, "whole", 1.0, True),
    ("grad_norm", "Gradient norm", GREY, "number", 1.0, False),
    (NOISE_SCALE, "Gradient noise scale (samples)", GREEN, "number", 1.0, False),
    ("mfu", "Model FLOPs utilisation", GREEN, "percent", 1.0, False),
    ("time_data", "Waiting for data (s per step)", ORANGE, "number", 1.0, False),
    ("time_communication", "Waiting for other workers (s per step)", BLUE, "number", 1.0, False),
    ("peak_memory", "Peak memory (GiB)", PURPLE, "number", GIB, False),
)
WHOLE = ("batch_size", "world_size")
SCALES = [{"name": "linear"}, {"name": "log", "log": True}]


def figures(
    state: RunState, training: Series, validation: Series, schedule: Schedule | None = None
) -> list[Figure]:
    """The loss, then a chart for each quantity that the run has.

    Args:
        state: the run's record.
        training: the run's training rows.
        validation: the run's validation rows.
        schedule: the run's schedule, from which learning rate and batch size are drawn exactly
            between rows as well; if None, they are drawn from the rows.
    """
    restarts = _restarts(state)
    x = {**TOKENS, "range": [0, max(state.totals.tokens, 1)]}
    found = [{**_loss(training, validation, restarts, state.loss_is), "x": x}]
    rows = training.thinned("loss")
    tokens, steps = training.values("tokens", rows), training.values("step", rows)
    for name, title, color, form, unit, stairs in SMALL_CHARTS:
        if not training.has(name):
            continue
        data = _scheduled(name, title, color, schedule, state.totals.tokens) or [
            series(
                title,
                tokens,
                [value and value / unit for value in training.values(name, rows)],
                color,
                steps=steps,
                stairs=stairs,
            )
        ]
        axis = {"format": form, "zero": True, "whole": name in WHOLE}
        marks = [{"x": one["x"]} for one in restarts]
        whole = len(data) > 1  # also what is still to come
        found.append(lines(title, data, x=None if whole else x, y=axis, marks=marks))
    if training.sources:
        found.append({**_by_source(training, rows), "x": x})
    return found


def _by_source(training: Series, rows: list[int]) -> Figure:
    """Tokens consumed of each source of a mixture."""
    tokens, steps = training.values("tokens", rows), training.values("step", rows)
    data = [
        series(
            source,
            tokens,
            training.values(f"{TOKENS_OF}{source}", rows),
            COLOURS[index % len(COLOURS)],
            steps=steps,
            legend=True,
        )
        for index, source in enumerate(training.sources)
    ]
    return lines("Tokens by source", data, y={"format": "count", "zero": True})


def draw_against(loss: Figure, name: str, other: Series) -> None:
    """Draw another run's training loss over the loss of this one.

    It is dashed and on top: where both are equal, this run's line shows between the dashes.
    """
    loss["data"].append({**_curve(name, other, "loss", SOFT), "dash": True})


def _loss(
    training: Series, validation: Series, restarts: list[dict[str, Any]], loss_is: str
) -> Figure:
    data = [_curve("Training", training, "loss", BLUE)]
    if len(validation):
        data.append({**_curve("Validation", validation, VAL_LOSS, ORANGE), "dots": True})
        data[-1]["width"] = 2.2
        if validation.has(VAL_LOSS_AVERAGE):
            averaged = _curve("Validation, average", validation, VAL_LOSS_AVERAGE, GREEN)
            data.append({**averaged, "dots": True})
    labelled = restarts if len(restarts) <= MOST_LABELS else [{"x": one["x"]} for one in restarts]
    return lines(
        f"Loss ({loss_is})" if loss_is else "Loss",
        data,
        y={"format": "loss"},
        height=380,
        marks=labelled,
        views=SCALES,
    )


def _curve(name: str, rows: Series, key: str, color: str) -> Figure:
    kept = rows.thinned(key)
    steps = rows.values("step", kept)
    values = rows.values(key, kept)
    return series(name, rows.values("tokens", kept), values, color, steps=steps, legend=True)


def _scheduled(
    name: str, title: str, color: str, schedule: Schedule | None, reached: int
) -> list[Figure]:
    """A scheduled quantity; what is still to come is grey, and below what was trained."""
    if schedule is None or name not in ("lr", "batch_size"):
        return []
    tokens, values = lr_line(schedule) if name == "lr" else batch_line(schedule)
    points = [(float(x), significant(y, 6)) for x, y in zip(tokens, values, strict=True)]
    done = [(x, y) for x, y in points if x <= reached]
    whole = len(done) == len(points)
    if done and not whole:
        (x0, y0), (x1, y1) = points[len(done) - 1 : len(done) + 1]
        share = (reached - x0) / (x1 - x0) if x1 > x0 else 0.0
        done.append((float(reached), y0 + share * (y1 - y0)))
    parts = [("to come", points, GREY, 1.2), (title, done, color, 1.8)]
    return [
        series(part, [x for x, _ in line], [y for _, y in line], shade, width=width)
        | {"exact": True, "dash": part == "to come"}
        for part, line, shade, width in parts
        if line and (part == title or not whole)
    ]


def _restarts(state: RunState) -> list[dict[str, Any]]:
    """A mark for each restart: the token count at which training went on, and a label."""
    found = []
    for before, group in zip(state.groups, state.groups[1:], strict=False):
        change = (
            f"{before.world_size} → {group.world_size}"
            if before.world_size != group.world_size
            else "restart"
        )
        found.append({"x": group.tokens, "label": change})
    return found
