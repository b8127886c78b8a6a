"""The comparison of runs or of a sweep, on the terminal and as a page."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console

from manta.config.errors import RunError
from manta.show.compare.comparison_page import write_page
from manta.show.compare.comparison_table import print_comparison
from manta.show.compare.ranking import rank
from manta.show.compare.reading import load_comparison
from manta.storage.exclusive import lives
from manta.storage.place import Place, place_of
from manta.storage.run_folder import COMPARISON
from manta.storage.store import StorePath, reason
from manta.storage.working import pull_all


def compare_places(
    places: Sequence[str], *, metric: str | None, output: Path | None, top: int
) -> Path:
    """As `compare`, for paths or URLs in stores; for URLs, the page goes to the current folder."""
    with fetched(places) as (paths, alive):
        if isinstance(place_of(places[0]), StorePath):
            output = output or Path(COMPARISON)
        return compare(paths, metric=metric, output=output, top=top, alive=alive)


@contextmanager
def fetched(places: Sequence[str]) -> Iterator[tuple[list[Path], Callable[[Path], bool]]]:
    """Local folders with the files to compare, and a function that tells if one has a driver.

    Raises:
        RunError: if a store can't be read.
    """
    with tempfile.TemporaryDirectory(prefix="manta-") as folder:
        given = [place_of(place) for place in places]
        paths = [_fetched(place, Path(folder)) for place in given]
        yield paths, partial(_lives, dict(zip(paths, given, strict=True)))


def _lives(places: Mapping[Path, Place], folder: Path) -> bool:
    """Whether a driver is at work on the run, sweep or trial that a folder was fetched from."""
    if folder in places:
        return lives(places[folder])
    return lives(places[folder.parent] / folder.name)


def _fetched(place: Place, folder: Path) -> Path:
    """A local folder with the small files of a run or sweep."""
    if isinstance(place, Path):
        return place
    there = folder / str(len(list(folder.iterdir()))) / place.name
    try:
        pull_all(place, there)
    except OSError as error:
        raise RunError(f"{place}: can't be read: {reason(error)}") from None
    return there


def compare(
    paths: Sequence[Path],
    *,
    metric: str | None = None,
    output: Path | None = None,
    top: int = 10,
    console: Console | None = None,
    alive: Callable[[Path], bool] = lives,
) -> Path:
    """Compare runs, or the trials of one sweep; returns the page.

    Args:
        paths: folders of two or more runs, or the folder of one sweep.
        metric: metric to compare by; if None, the sweep's, or the validation loss.
        output: file for the page; if None, in the sweep's folder or the current one.
        top: number of best configurations to show.
        console: the console to print to.
        alive: tells whether a driver is at work on a folder.

    Raises:
        RunError: when a path is neither a run nor a sweep, or can't be read.
        ConfigError: when no run has the metric.
    """
    console = console or Console(highlight=False)
    comparison = load_comparison(paths, metric, alive)
    ranking = rank(comparison)
    page = output or (paths[0] / COMPARISON if comparison.tokens else Path(COMPARISON))
    write_page(comparison, ranking, page, top)
    print_comparison(comparison, ranking, console, top)
    console.print(f"\npage: {page}", soft_wrap=True)
    return page
