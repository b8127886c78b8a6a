"""The comparison of runs or of a sweep, on the terminal and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from manta.track.compare import load_comparison
from manta.track.compare_page import PAGE, write_page
from manta.track.compare_table import print_comparison
from manta.track.ranking import rank


def compare(
    paths: Sequence[Path],
    *,
    metric: str | None = None,
    output: Path | None = None,
    top: int = 10,
    console: Console | None = None,
) -> Path:
    """Compare runs, or the trials of one sweep; returns the page.

    Args:
        paths: folders of runs, or of one sweep.
        metric: what to compare by; the sweep's, or the validation loss, if None.
        output: where to write the page; into the sweep's folder, or here, if None.
        top: how many of the best to show.
        console: where to print.

    Raises:
        RunError: when a path is neither a run nor a sweep, or can't be read.
        ConfigError: when no run has the metric.
    """
    console = console or Console(highlight=False)
    comparison = load_comparison(paths, metric)
    ranking = rank(comparison)
    page = output or (paths[0] / PAGE if comparison.tokens else Path(PAGE))
    write_page(comparison, ranking, page, top)
    print_comparison(comparison, ranking, console, top)
    console.print(f"\npage: {page}", soft_wrap=True)
    return page
