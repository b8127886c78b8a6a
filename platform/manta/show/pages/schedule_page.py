"""The page of a schedule: learning rate, batch size and steps over tokens."""

from __future__ import annotations

from pathlib import Path

from manta.config.errors import RunError
from manta.schedule import Schedule
from manta.schedule.lines import (
    HEADINGS,
    TITLES,
    batch_line,
    lr_line,
    segment_rows,
    steps_line,
    totals,
)
from manta.show.pages import page as html
from manta.show.pages.charts import BLUE, GREEN, PURPLE, Figure, lines, series
from manta.storage.atomic import replace_text

COLOURS = {"lr": PURPLE, "batch": GREEN, "steps": BLUE}
FORMATS = {"lr": "rate", "batch": "number", "steps": "whole"}


def write_schedule(schedule: Schedule, path: Path, title: str) -> Path:
    """Write the page to `path` atomically; returns `path`. Equal schedules give equal pages.

    Raises:
        RunError: if the file can't be written.
    """
    found = {
        "lr": lr_line(schedule),
        "batch": batch_line(schedule),
        "steps": steps_line(schedule),
    }
    drawn = [
        _figure(name, [float(x) for x in tokens], [float(f"{y:.6g}") for y in values])
        for name, (tokens, values) in found.items()
    ]
    parts = [
        html.header(title, "", totals(schedule).split(" · ")),
        html.charts(drawn),
        html.table("Segments", HEADINGS, segment_rows(schedule)),
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, html.page(f"{title} – Manta", "\n".join(parts), drawn))
    except OSError as error:
        raise RunError(
            f"{path}: can't be written: {error.strerror}; give another file with --html"
        ) from None
    return path


def _figure(name: str, tokens: list[float], values: list[float]) -> Figure:
    data = [series(TITLES[name], tokens, values, COLOURS[name], width=2.0, exact=True)]
    axis = {"format": FORMATS[name], "zero": True, "whole": name == "steps"}
    return {**lines(TITLES[name], data, y=axis, height=230), "whole": True}
