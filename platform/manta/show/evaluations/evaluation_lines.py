"""An evaluation in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta.record.evaluation_record import EvaluationRecord
from manta.record.metric_text import meaning_of, value_text

if TYPE_CHECKING:
    from rich.console import Console

# Columns of text for the names of metrics, and for each value.
NAMES, VALUES = 24, 12


def print_evaluation(record: EvaluationRecord, console: Console) -> None:
    """Print all values, and those of slices where they are few."""
    from rich.table import Table
    from rich.text import Text

    for name, result in record.evaluators.items():
        table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left")
        count = f" ({result.examples:,} examples)" if result.examples else ""
        table.add_column(f"{name}{count}", no_wrap=True)
        table.add_column("all", justify="right")
        shown = [
            (kind, one)
            for kind, slices in result.slices.items()
            for one in slices
            if len(slices) > 1
        ]
        if NAMES + VALUES * (1 + len(shown)) > console.width:  # the page has them
            shown = []
        for kind, one in shown:
            table.add_column(f"{kind}\n{one}", justify="right", overflow="fold")
        for metric, value in result.values.items():
            row = [value_text(metric, value)]
            row += [value_text(metric, result.slices[k][o].get(metric)) for k, o in shown]
            table.add_row(metric, *row)
        console.print(table)
        for remark in result.remarks:
            console.print(Text(remark, style="dim"))
        console.print()


def meanings(metrics: list[str]) -> list[tuple[str, str]]:
    """Metric and meaning of those that have one."""
    return [(metric, meaning_of(metric)) for metric in metrics if meaning_of(metric)]
