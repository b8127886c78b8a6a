"""A schedule as a picture: in the terminal, and as the points of lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from manta.config.units import format_tokens
from manta.schedule.canvas import draw_curve
from manta.schedule.schedule import Schedule
from manta.schedule.segment import Segment

Floats = NDArray[np.float64]

HEIGHT = 6  # of a terminal panel, in lines
MARGIN = 10  # columns for the labels of its axis
WIDEST = 100  # columns; beyond that a curve gets flat to look at
POINTS = 400  # of a curved segment of a line
COLOURS = {"lr": "cyan", "batch": "magenta", "steps": "green"}
HEADINGS = ("", "from", "to", "share", "shape", "value")
LR, BATCH = "learning rate", "batch size"
TITLES = {"lr": "Learning rate", "batch": "Batch size (samples)", "steps": "Steps"}


def draw_terminal(schedule: Schedule, console: Console) -> None:
    """Print learning rate, batch size and steps over tokens, the segments and the totals."""
    console.print(_panels(schedule, console))
    console.print(_segment_table(schedule))
    console.print(Text(totals(schedule)))


# Curves, as the points of lines.


def lr_line(schedule: Schedule, points: int = POINTS) -> tuple[Floats, Floats]:
    """Tokens and learning rate of a line, with `points` places in each curved segment."""
    tokens, values = [], []
    for segment in schedule.lr_segments:
        straight = segment.shape in ("constant", "linear")
        count = 2 if straight else points * _turns(segment)
        places = np.linspace(segment.start, segment.end, count + (count > 2))
        tokens.append(places)
        values.append(segment.over(places))
    return np.concatenate(tokens), np.concatenate(values)


def _turns(segment: Segment) -> int:
    """Periods in a segment, as many as can be told apart on a screen."""
    if segment.period is None:
        return 1
    return min(50, math.ceil((segment.end - segment.start) / segment.period))


def batch_line(schedule: Schedule) -> tuple[Floats, Floats]:
    """Tokens and batch size of a staircase."""
    starts = [level.tokens for level in schedule.levels]
    sizes = [level.batch for level in schedule.levels]
    tokens = np.repeat(np.array([*starts, schedule.horizon], dtype=np.float64), 2)[1:-1]
    return tokens, np.repeat(np.array(sizes, dtype=np.float64), 2)


def steps_line(schedule: Schedule) -> tuple[Floats, Floats]:
    """Tokens and steps by then."""
    ends = [(p.end_position * schedule.seq_len, p.end_step) for p in schedule.plateaus]
    points = np.array([(0, 0), *ends], dtype=np.float64)
    return points[:, 0], points[:, 1]


# The terminal.


def _panels(schedule: Schedule, console: Console) -> RenderableType:
    """The three curves, as wide as the console allows."""
    width = max(10, min(console.width, WIDEST) - MARGIN - 3)
    tokens = (np.arange(2 * width) + 0.5) * schedule.horizon / (2 * width)
    ascii_only = console.options.ascii_only
    lines: list[Text] = []
    for name, values in _sampled(schedule, tokens).items():
        lines.append(Text(f"{'':>{MARGIN}} {TITLES[name]}", style="bold"))
        drawn = draw_curve(values, width, HEIGHT, ascii_only=ascii_only)
        lines.extend(_with_axis(drawn, _label(float(values.max())), COLOURS[name], ascii_only))
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


def _segment_table(schedule: Schedule) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in HEADINGS[1:4]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(HEADINGS[4], no_wrap=True)
    table.add_column(HEADINGS[5])
    for name, *cells in segment_rows(schedule):
        table.add_row(Text(name, style=COLOURS["lr" if name == LR else "batch"]), *cells)
    return table


def segment_rows(schedule: Schedule) -> list[list[str]]:
    """A row for each segment, with cells below `HEADINGS`."""
    return [
        [
            name,
            format_tokens(segment.start),
            format_tokens(segment.end),
            f"{(segment.end - segment.start) / schedule.horizon:.1%}",
            segment.shape,
            _value(segment),
        ]
        for name, segments in ((LR, schedule.lr_segments), (BATCH, schedule.batch_segments))
        for segment in segments
    ]


def _value(segment: Segment) -> str:
    if segment.shape == "constant":
        return f"{segment.first:g}"
    text = f"{segment.first:g} → {segment.last:g}"
    if segment.period is not None:
        text += f" and back each {format_tokens(segment.period)}"
    if segment.multiple_of != 1:
        text += f", in multiples of {segment.multiple_of}"
    return text


def totals(schedule: Schedule) -> str:
    """Steps, samples and tokens of the whole schedule."""
    tokens = schedule.positions * schedule.seq_len
    past = tokens - schedule.horizon
    text = (
        f"{schedule.steps:,} steps · {schedule.positions:,} samples of {schedule.seq_len:,} tokens"
        f" · {tokens:,} tokens"
    )
    return text + (f" ({past:,} past the horizon: whole batches)" if past else "")
