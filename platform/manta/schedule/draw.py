"""A schedule as a picture in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from manta.config.units import format_tokens
from manta.schedule.canvas import draw_curve
from manta.schedule.lines import HEADINGS, LR, TITLES, Floats, segment_rows, steps_line, totals
from manta.schedule.share_lines import TITLE, mixture_rows, share_line
from manta.schedule.shares import Mixture
from manta.schedule.steps import Schedule

HEIGHT = 6  # lines of a panel
LOW = 3  # lines of a source's panel
MOST_SOURCES = 8  # sources of a mixture that have a panel
MARGIN = 10  # columns for the labels of a panel's axis
WIDEST = 100  # columns of a panel at most; a wider curve looks flat
COLOURS = {"lr": "cyan", "batch": "magenta", "steps": "green"}


def draw_terminal(schedule: Schedule, console: Console, mixture: Mixture | None = None) -> None:
    """Print learning rate, batch size and steps over tokens, the segments and the totals.

    With a mixture, also the share of each source; only as segments if there are many.
    """
    console.print(_panels(schedule, console, mixture))
    console.print(_segment_table(schedule, mixture))
    console.print(Text(totals(schedule)))


# The terminal.


def _panels(schedule: Schedule, console: Console, mixture: Mixture | None) -> RenderableType:
    """The three curves, and those of a mixture's sources, as wide as the console allows."""
    width = max(10, min(console.width, WIDEST) - MARGIN - 3)
    tokens = (np.arange(2 * width) + 0.5) * schedule.horizon / (2 * width)
    ascii_only = console.options.ascii_only
    lines: list[Text] = []
    for name, values in _sampled(schedule, tokens).items():
        lines.append(Text(f"{'':>{MARGIN}} {TITLES[name]}", style="bold"))
        drawn = draw_curve(values, width, HEIGHT, ascii_only=ascii_only)
        lines.extend(_with_axis(drawn, _label(float(values.max())), COLOURS[name], ascii_only))
    sources = mixture.sources if mixture and len(mixture.sources) <= MOST_SOURCES else ()
    for source in sources:
        assert mixture is not None
        shares = np.interp(tokens, *share_line(mixture, source, schedule))
        lines.append(Text(f"{'':>{MARGIN}} {TITLE} of {source}", style="bold"))
        drawn = draw_curve(shares, width, LOW, ascii_only=ascii_only)
        lines.extend(_with_axis(drawn, _label(float(shares.max())), "yellow", ascii_only))
    lines.append(_token_axis(schedule, width, ascii_only))
    return Group(*lines)


def _sampled(schedule: Schedule, tokens: Floats) -> dict[str, Floats]:
    """The three curves at `tokens`."""
    batches = [schedule.batch_size(int(count)) for count in tokens]
    return {
        "lr": schedule.lr(tokens),
        "batch": np.array(batches, dtype=np.float64),
        "steps": np.interp(tokens, *steps_line(schedule)),
    }


def _token_axis(schedule: Schedule, width: int, ascii_only: bool) -> Text:
    end = f"{format_tokens(schedule.horizon)} tokens"
    rule = ("+" + "-" * width) if ascii_only else ("└" + "─" * width)
    text = f"{'':>{MARGIN}} {rule}\n{'':>{MARGIN}} 0{end:>{width}}\n"
    return Text(text, style="dim", no_wrap=True)


def _label(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else format_tokens(int(float(f"{value:.3g}")))


def _with_axis(lines: Sequence[str], top: str, colour: str, ascii_only: bool) -> list[Text]:
    labels = [top, *[""] * (len(lines) - 2), "0"]
    bar = "|" if ascii_only else "┤"
    return [
        Text.assemble((f"{label:>{MARGIN}} {bar}", "dim"), (line, colour), no_wrap=True)
        for label, line in zip(labels, lines, strict=True)
    ]


def _segment_table(schedule: Schedule, mixture: Mixture | None) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in HEADINGS[1:4]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(HEADINGS[4], no_wrap=True)
    table.add_column(HEADINGS[5])
    for name, *cells in segment_rows(schedule):
        table.add_row(Text(name, style=COLOURS["lr" if name == LR else "batch"]), *cells)
    for name, *cells in mixture_rows(mixture, schedule) if mixture else ():
        table.add_row(Text(name, style="yellow"), *cells)
    return table
