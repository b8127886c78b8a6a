"""How long the sample order takes to say which ids a step consumes.

Compared with looking them up in a shuffled index (``numpy.random.permutation``), which is
the fastest there can be and needs 8 bytes a sample in memory and the time to shuffle them.

    python benchmarks/order.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from manta.stream.ledger import digest
from manta.stream.order import SampleOrder

BATCHES = (8, 64, 1024, 8192, 65_536, 1_048_576)
SIZES = (1_000, 10**6, 10**9, 2**40, 2**62)
LOOKED_UP = 10**7  # samples in the shuffled index: 80 MB
SECONDS = 0.2  # of measuring, for each number


def main() -> None:
    """Print nanoseconds an id, and microseconds of the smallest calls."""
    table = Table("", *(f"batch {batch:,}" for batch in BATCHES), title="nanoseconds per id")
    for samples in SIZES:
        order = SampleOrder(key="fingerprint/train", seed=1, num_samples=samples)
        table.add_row(f"SampleOrder, N = {samples:,}", *_row(lambda a, b, o=order: o.ids(a, b)))
    shuffled = np.random.default_rng(0).permutation(LOOKED_UP)
    table.add_row(f"index in memory, N = {LOOKED_UP:,}", *_row(lambda a, b: shuffled[a:b].copy()))
    table.add_row("ledger digest", *_row(lambda a, b: digest(np.arange(a, b))))
    console = Console()
    console.print(table)
    started = time.perf_counter()
    np.random.default_rng(0).permutation(LOOKED_UP)
    each = (time.perf_counter() - started) / LOOKED_UP * 1e9
    console.print(f"Shuffling the index takes {each:.1f} ns and 8 bytes for each sample.")


def _row(ids: Callable[[int, int], object]) -> list[str]:
    return [f"{_best(ids, batch) / batch * 1e9:,.1f}" for batch in BATCHES]


def _best(ids: Callable[[int, int], object], batch: int) -> float:
    """Seconds of the fastest call: the one that the rest of the machine disturbed least."""
    best, first, end = float("inf"), 0, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        ids(first, first + batch)
        best = min(best, time.perf_counter() - started)
        first = (first + batch) % (LOOKED_UP - batch)
    return best


if __name__ == "__main__":
    main()
