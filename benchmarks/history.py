"""What opening a run's `metrics.jsonl` takes at a start, by how many rows are in it.

    python benchmarks/history.py

Files of few and of many rows are opened in turns, each with the mark that its record would have
and a few rows after it; then each is read as a whole once, as the end of a run does. Read the
ratios of many to few.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from manta.record.history import METRICS, History, as_line
from manta.record.row_chain import Mark, RowChain

AFTER = 20  # rows that a driver wrote after it last saved its record


class Costs(NamedTuple):
    """Of one act: seconds, bytes that were read, bytes of memory at the most."""

    seconds: float
    read: float
    memory: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--turns", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {rows: _written(Path(folder) / str(rows), rows) for rows in args.rows}
        _show(files, args.turns)


def _show(files: dict[int, tuple[Path, Mark]], turns: int) -> None:
    opened: dict[int, list[Costs]] = {rows: [] for rows in files}
    for _ in range(turns):
        for rows, (path, mark) in files.items():
            opened[rows].append(_costs(lambda p=path, m=mark: History(p, m).close()))
    whole = {rows: [_costs(lambda f=file: _read_whole(*f))] for rows, file in files.items()}
    table = Table("rows", "", "s", "KB read", "KB of memory", title=f"median of {turns} turns")
    for name, costs in (("opened", opened), ("all read", whole)):
        for rows, each in costs.items():
            seconds, read, memory = _medians(each)
            table.add_row(
                f"{rows:,}", name, f"{seconds:.6f}", f"{read / 1e3:,.1f}", f"{memory / 1e3:,.1f}"
            )
    console = Console()
    console.print(table)
    few, *_, many = [_medians(each) for each in opened.values()]
    ratios = ", ".join(
        f"{b / a:.2f} {name}" for a, b, name in zip(few, many, Costs._fields, strict=True)
    )
    console.print(f"Opened with {max(files):,} rows to {min(files):,}, times: {ratios}")


def _written(path: Path, rows: int) -> tuple[Path, Mark]:
    """A file of that many rows and a few more, and the mark before these."""
    path.mkdir()
    chain = RowChain()
    mark = Mark()
    with (path / METRICS).open("wb") as file:
        for step in range(1, rows + AFTER + 1):
            line = as_line(_row(step))
            file.write(line)
            chain.take(line)
            if step == rows:
                mark = chain.mark({"training": step})
    return path / METRICS, mark


def _row(step: int) -> dict[str, float]:
    """As long as those of a run."""
    return {
        "step": step,
        "tokens": step * 65_536,
        "lr": 3e-4 / step,
        "batch_size": 32,
        "world_size": 8,
        "epoch": 0,
        "loss": 2 + 1 / step,
        "grad_norm": 1 / 3 + 1 / step,
        "tokens_per_s": 123_456.789,
        "time_data": 0.0123,
        "time_communication": 0.0345,
    }


def _read_whole(path: Path, mark: Mark) -> None:
    history = History(path, mark)
    assert not history.recheck()
    history.close()


def _costs(act: Callable[[], None]) -> Costs:
    """Memory in a go of its own, as looking at it takes time."""
    before, began = _bytes_read(), time.perf_counter()
    act()
    seconds, read = time.perf_counter() - began, _bytes_read() - before
    tracemalloc.start()
    act()
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Costs(seconds, read, memory)


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def _medians(costs: list[Costs]) -> Costs:
    return Costs(*(statistics.median(values) for values in zip(*costs, strict=True)))


if __name__ == "__main__":
    main()
