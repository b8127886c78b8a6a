"""The page of a schedule: learning rate, batch size and steps over tokens."""

from __future__ import annotations

from pathlib import Path

from manta.record.number_format import significant
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
from manta.schedule.share_lines import TITLE, mixture_rows, share_line
from manta.schedule.shares import Mixture
from manta.show.pages import page as html
from manta.show.pages.charts import BLUE, COLOURS, GREEN, PURPLE, Figure, lines, series

SHADES = {"lr": PURPLE, "batch": GREEN, "steps": BLUE}
FORMATS = {"lr": "rate", "batch": "number", "steps": "whole"}


def write_schedule(
    schedule: Schedule, path: Path, title: str, mixture: Mixture | None = None
) -> Path:
    """Write the page to `path` atomically; returns `path`. Equal schedules give equal pages.

    With a mixture, it also has the share of each source.

    Raises:
        RunError: if the file can't be written.
    """
    found = {
        "lr": lr_line(schedule),
        "batch": batch_line(schedule),
        "steps": steps_line(schedule),
    }
    drawn = [
        _figure(name, [float(x) for x in tokens], [significant(y, 6) for y in values])
        for name, (tokens, values) in found.items()
    ]
    rows = segment_rows(schedule)
    if mixture is not None:
        drawn.append(shares_figure(mixture, schedule))
        rows += mixture_rows(mixture, schedule)
    parts = [
        html.header(title, "", totals(schedule).split(" · ")),
        html.charts(drawn),
        html.table("Segments", HEADINGS, rows),
    ]
    html.write(path, f"{title} – Manta", "\n".join(parts), drawn, "--html")
    return path


def _figure(name: str, tokens: list[float], values: list[float]) -> Figure:
    data = [series(TITLES[name], tokens, values, SHADES[name], width=2.0, exact=True)]
    axis = {"format": FORMATS[name], "zero": True, "whole": name == "steps"}
    return {**lines(TITLES[name], data, y=axis, height=230), "whole": True}


def shares_figure(mixture: Mixture, schedule: Schedule) -> Figure:
    """The share of each source over tokens."""
    data = []
    for index, source in enumerate(mixture.sources):
        tokens, shares = share_line(mixture, source, schedule)
        values = [significant(share, 6) for share in shares]
        colour = COLOURS[index % len(COLOURS)]
        line = series(source, tokens.tolist(), values, colour, width=2.0, exact=True, legend=True)
        data.append(line)
    axis = {"format": "number", "zero": True}
    return {**lines(TITLE, data, y=axis, height=230), "whole": True}
