"""A comparison of evaluations in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from manta.record.metric_text import change_text, interval_text, model_name, value_text
from manta.show.evaluations.paired_bootstrap import PairedDifference
from manta.show.evaluations.paired_comparison import ComparedEvaluator, PairedComparison

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"better": "green", "worse": "red", "within noise": "yellow"}
# Consoles with fewer columns of text than WIDE leave some columns out.
WIDE, LEFT_OUT = 120, ("difference", "won", "lost")
HEADINGS = ("metric", "baseline", "model", "difference", "interval", "won", "lost", "verdict")


def print_comparisons(comparisons: Sequence[PairedComparison], console: Console) -> None:
    """Print each comparison with the baseline, and what its intervals mean."""
    from rich.table import Table
    from rich.text import Text

    for comparison in comparisons:
        first, second = (model_name(one.model) for one in (comparison.first, comparison.second))
        console.print(Text(f"{second} compared with {first}", style="bold"))
        for remark in comparison.remarks:
            console.print(Text(f"note: {remark}", style="yellow"))
        for one in comparison.evaluators:
            if one.why:
                console.print(Text(f"{one.name}: not compared: {one.why}", style="yellow"))
                continue
            table = Table(box=None, header_style="bold", pad_edge=False)
            shown = [h for h in HEADINGS if console.width >= WIDE or h not in LEFT_OUT]
            for heading in shown:
                left, whole = heading == "metric", heading in ("metric", "interval", "verdict")
                table.add_column(heading, justify="left" if left else "right", no_wrap=whole)
            for row, verdict in rows_of(one, slices=console.width >= WIDE):
                named = dict(zip(HEADINGS, row, strict=True))
                style = STYLES.get(verdict, "")
                table.add_row(*(Text(named[h], style * (h == "verdict")) for h in shown))
            console.print(table)
            if worse := _worse(one):
                console.print(Text(f"worse in: {', '.join(worse)}", style="red"))
        console.print()
    console.print(Text(reading(comparisons), style="dim"))


def _worse(one: ComparedEvaluator) -> list[str]:
    """The slices that became worse."""
    slices = one.slices.items()
    return [f"{kind}={name}" for ((kind, name), _), d in slices if d.verdict == "worse"]


def rows_of(one: ComparedEvaluator, *, slices: bool = True) -> list[tuple[list[str], str]]:
    """The cells of each metric, and its verdict; perhaps also of slices of the main metric."""
    found: list[tuple[list[str], str]] = [
        ([f"{one.name}/{metric}", *cells(metric, difference)], difference.verdict)
        for metric, difference in one.paired.items()
    ]
    for ((kind, name), metric), difference in one.slices.items() if slices else ():
        label = f"{one.name}/{metric}[{kind}={name}]"
        found.append(([label, *cells(metric, difference)], difference.verdict))
    for metric, (first, second) in one.plain.items():
        values = [value_text(metric, value) for value in (first, second)]
        change = change_text(metric, second - first)
        found.append(([f"{one.name}/{metric}", *values, change, "–", "", "", ""], ""))
    return found


def cells(metric: str, difference: PairedDifference) -> list[str]:
    """The cells of a difference after its name."""
    counted = difference.verdict != "differs"
    return [
        value_text(metric, difference.first),
        value_text(metric, difference.second),
        change_text(metric, difference.change),
        interval_text(metric, difference.low, difference.high),
        f"{difference.won:,}" if counted else "",
        f"{difference.lost:,}" if counted else "",
        difference.verdict,
    ]


def reading(comparisons: Sequence[PairedComparison]) -> str:
    """What the columns mean."""
    tests = comparisons[0].tests
    return (
        f"Differences are over the same examples (paired bootstrap, 10,000 draws). The {tests} "
        f"intervals of all examples hold together with 95 %, and so do those of an evaluator's "
        "slices; one that contains 0 is within noise. Won and lost count examples. What has no "
        "interval is no mean over examples: repeat it to see its noise."
    )
