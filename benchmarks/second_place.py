"""How fast a node's snapshots get to their second place, in the memory of another node.

    python benchmarks/second_place.py [--parts 8] [--mib 128] [--repeats 3]

Two keepers on this machine stand for those of two nodes; Ray moves the bytes between them as
between nodes, but for the network. Each of several ranks of the first node commits its part of a
snapshot, all at once, as after a step of a sharded run. Prints GB/s from the commits until all
parts are held twice, and how long the keeper that is copied from took to answer, at worst.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "platform")]

import numpy as np  # noqa: E402
import ray  # noqa: E402

from manta.elastic.snapshot_memory.keeper import open_keeper  # noqa: E402
from manta.elastic.snapshot_memory.keeper_vault import KeeperVault  # noqa: E402
from manta.state.vault import Stamp  # noqa: E402


def measured(parts: int, size: int) -> tuple[float, float]:
    """GB/s, and the longest answer in seconds, of one snapshot."""
    here = ray.get_runtime_context().get_node_id()
    keepers = {name: open_keeper(here) for name in ("first", "second")}
    ranks = [KeeperVault(keepers, "first", number) for number in range(parts)]
    for rank in ranks:
        while not rank.free(size):
            time.sleep(0.01)
        np.frombuffer(rank.buffer(), dtype=np.uint8)[:] = 1
    began, slowest = time.perf_counter(), 0.0
    for rank in ranks:
        rank.commit(Stamp(1, 1), parts, b"header")
    while not all(rank.settle(0.0) for rank in ranks):
        asked = time.perf_counter()
        ray.get(keepers["first"].held.remote())
        slowest = max(slowest, time.perf_counter() - asked)
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    held = ray.get(keepers["second"].held.remote())
    assert len(held) == parts, f"{len(held)} of {parts} parts have a second place"
    for keeper in keepers.values():
        ray.kill(keeper)
    return parts * size / seconds / 1e9, slowest


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--mib", type=int, default=128, help="of each part")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        size = arguments.mib * 2**20
        found = [measured(arguments.parts, size) for _ in range(arguments.repeats)]
        ray.shutdown()
    rates, answers = zip(*found, strict=True)
    print(
        f"{arguments.parts} parts of {arguments.mib} MiB: {statistics.median(rates):.2f} GB/s "
        f"({min(rates):.2f} to {max(rates):.2f}); an answer took at most {max(answers):.2f} s"
    )


if __name__ == "__main__":
    main()
