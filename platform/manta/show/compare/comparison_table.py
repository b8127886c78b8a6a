"""A comparison in the terminal: a table, best first, and the verdict below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta.record import number_format as words
from manta.show.compare.comparison import Comparison, Configuration
from manta.show.compare.ranking import Ranking, View
from manta.show.compare.verdict import (
    amount,
    behind_text,
    device_unit,
    sentences,
    status_text,
    value_text,
    view_name,
)

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"clear": "green", "noise": "yellow", "unknown": "yellow", "fact": ""}
# Consoles with fewer columns of text than this get fewer table columns.
NARROW = 110
STATUS = "status"


@dataclass(frozen=True)
class Column:
    """A table column: its text for a configuration, and whether a narrow console shows it."""

    name: str
    cell: Callable[[Configuration], str]
    always: bool = False


def print_comparison(
    comparison: Comparison, ranking: Ranking, console: Console, top: int = 10
) -> None:
    """Print the `top` best configurations and the verdict."""
    from rich.table import Table
    from rich.text import Text

    for warning in comparison.warnings:
        console.print(Text(f"warning: {warning}", style="bold yellow"))
    shown = ranking.ranked[:top]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("configuration", min_width=24, overflow="fold")
    kept = [
        column
        for column in columns(comparison, ranking)
        if (column.always or console.width >= NARROW) and any(map(column.cell, shown))
    ]
    for column in kept:
        # Break a long name over two lines, to leave room for the values.
        name = "\n".join(column.name.rsplit(" ", 1)) if len(column.name) > 12 else column.name
        fixed = column.name != STATUS
        table.add_column(name, justify="right" if fixed else "left", no_wrap=fixed, overflow="fold")
    for number, configuration in enumerate(shown, start=1):
        compared = ranking.entry(ranking.main, configuration) is not None
        table.add_row(
            str(number) if compared else "",
            _described(comparison, configuration),
            *(column.cell(configuration) for column in kept),
            style=None if compared else "dim",
        )
    console.print(table)
    if len(ranking.ranked) > top:
        console.print(Text(f"… and {len(ranking.ranked) - top} more", style="dim"))
    console.print()
    for sentence in sentences(comparison, ranking):
        console.print(Text(sentence.text, style=STYLES[sentence.sureness]))


def _described(comparison: Comparison, configuration: Configuration) -> str:
    """A configuration's label; for runs, whose names say little, with what differs."""
    told = comparison.told(configuration.params)
    if comparison.tokens or not told or told == configuration.label:
        return configuration.label
    return f"{configuration.label}\n{told}"


def columns(comparison: Comparison, ranking: Ranking) -> list[Column]:
    """The columns, the same in the terminal and on the page."""
    main = ranking.main
    where = f" {view_name(main)}" if main and main.kind != "end" else ""
    longest = max((t.compute or 0.0 for t in comparison.trials), default=0.0)
    size, unit = device_unit(longest)

    def value(configuration: Configuration) -> str:
        entry = ranking.entry(main, configuration)
        if entry is not None:
            return value_text(entry)
        last = [trial.value for trial in configuration.trials if trial.value is not None]
        return f"({sum(last) / len(last):.4f})" if last else ""

    def behind(configuration: Configuration) -> str:
        entry = ranking.entry(main, configuration)
        return behind_text(entry) if entry else ""

    def tokens(configuration: Configuration) -> str:
        reached = max(trial.reached for trial in configuration.trials)
        return words.count(reached) if reached else ""

    def compute(configuration: Configuration) -> str:
        seconds = _mean([trial.compute for trial in configuration.trials])
        return "" if seconds is None else amount(seconds / size)

    def used(configuration: Configuration) -> str:
        seconds = _mean([trial.device_seconds for trial in configuration.trials])
        return "" if seconds is None else amount(seconds / size)

    def useful(configuration: Configuration) -> str:
        mean = _mean([trial.goodput for trial in configuration.trials])
        return "" if mean is None else f"{mean:.0%}"

    def cost(configuration: Configuration) -> str:
        mean = _mean([trial.cost for trial in configuration.trials])
        return "" if mean is None else words.money(mean)

    matched = [
        Column(view_name(view), _at(ranking, view))
        for view in (ranking.view("tokens"), ranking.view("compute"))
        if view and view is not main
    ]
    return [
        Column(f"{comparison.metric}{where}", value, always=True),
        Column("behind", behind, always=True),
        *matched,
        Column("seeds", lambda configuration: str(len(configuration.trials))),
        Column("tokens", tokens),
        Column(f"compute, {unit}", compute),
        Column(f"used, {unit}", used),
        Column("goodput", useful),
        Column("cost", cost),
        Column(STATUS, status_text, always=True),
    ]


def _at(ranking: Ranking, view: View) -> Callable[[Configuration], str]:
    def cell(configuration: Configuration) -> str:
        entry = ranking.entry(view, configuration)
        return f"{entry.estimate.mean:.4f}" if entry else ""

    return cell


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
