"""Goodput of 16 to 4,096 ranks by simulation of what was measured, and how long so many meet.

    python benchmarks/many_ranks.py [--pause 0.6] [--restart 120] [--checkpoint-minutes 10]

**To meet**: as many ranks as threads of one process, each with a connection of its own to the first
rank's store, meet by Manta's `muster`, as after a fault: from the last one's coming until all know.
It is what of a pause grows with ranks in Manta's code. A cluster's ranks have their own cores.

**Simulated**: so many GPUs that fail at random, evenly in time, for 30 days. Rates: 419 unexpected
interruptions of 16,384 GPUs in 54 days (Llama 3, arXiv:2407.21783, table 5), and ten times as many
for spot nodes. Manta pays `--pause` a fault, measured by `recovery.py`, and the time to meet; a job
that restarts from checkpoints pays `--restart` and what it trained since the last of them.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from manta.parallel.muster import muster

RANKS = (16, 64, 256, 1024, 4096)
DAYS, REPEATS = 30.0, 5
# Faults of one GPU a second: Llama 3's fleet, and one of spot nodes that is ten times worse.
LLAMA = 419 / (54 * 86400 * 16384)
MOST_THREADS = 1024


def met(ranks: int) -> float:
    """Seconds from the last rank's coming until all know that all are there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    stores, done = [None] * ranks, [0.0] * ranks

    def come(rank: int) -> None:
        stores[rank] = muster(rank, ranks, lambda: False)
        done[rank] = time.perf_counter()

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(ranks)]
    for thread in threads[:-1]:
        thread.start()
    time.sleep(0.5 + ranks / 500)  # all others are connected and wait
    began = time.perf_counter()
    threads[-1].start()
    for thread in threads:
        thread.join()
    return max(done) - began


def useful(rate: float, recovery: float, lost: float, rng: np.random.Generator) -> float:
    """Share of 30 days that trains new steps.

    Args:
        rate: faults of the whole fleet a second.
        recovery: seconds without training after a fault.
        lost: most seconds of work that a fault undoes, evenly distributed.
        rng: source of the faults.
    """
    horizon, now, trained = DAYS * 86400, 0.0, 0.0
    while now < horizon:
        runs = min(rng.exponential(1 / rate), horizon - now)
        trained += max(0.0, runs - recovery - rng.uniform(0, lost))
        now += runs
    return trained / horizon


def main() -> None:
    """Measure, simulate, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pause", type=float, default=0.6)
    parser.add_argument("--restart", type=float, default=120.0)
    parser.add_argument("--checkpoint-minutes", type=float, default=10.0)
    arguments = parser.parse_args()
    print("| ranks | to meet, ms | faults a day | in place | restart | spot: in place | restart |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    meeting = 0.0
    for ranks in RANKS:
        measured = ranks <= MOST_THREADS
        if measured:
            meeting = statistics.median(met(ranks) for _ in range(REPEATS))
        else:
            meeting *= ranks / MOST_THREADS  # a connection each: in proportion
        cells = []
        for rate in (LLAMA * ranks, 10 * LLAMA * ranks):
            rng = np.random.default_rng(0)
            cells.append(f"{useful(rate, arguments.pause + meeting, 0.0, rng):.2%}")
            minutes = arguments.checkpoint_minutes
            cells.append(f"{useful(rate, arguments.restart, minutes * 60, rng):.2%}")
        said = f"{1000 * meeting:.1f}" if measured else f"{1000 * meeting:.0f} (in proportion)"
        print(
            f"| {ranks:,} | {said} | {LLAMA * ranks * 86400:.2g} | {' | '.join(cells)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
