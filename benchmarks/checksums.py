"""What checksums of checkpoints cost, beside the same save and load without them.

    python benchmarks/checksums.py --megabytes 256

Each turn saves and loads one state in four ways, in an order that is turned round from turn to
turn; read the ratios, which are of the same turn. A lone rank's save holds training until it is
written: its seconds are those that training waits, and what checksums add to them is the only cost
in a step. More ranks save in a thread beside training, by the same code. A load is what a start
waits for. The last line says how far apart saves must be for that cost to stay below 1 %.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.distributed.checkpoint import (
    FileSystemReader,
    FileSystemWriter,
    state_dict_loader,
    state_dict_saver,
)

from manta.state.dcp import METADATA, Planner, Reader, Writer
from manta.state.loading import CHECKING_THREADS, quiet_alone

Content = dict[str, dict[str, torch.Tensor]]
SHARE = 0.01


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--tensor", type=int, default=2**20, help="bytes of each tensor")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--folder", help="on the disk to measure; else that of temporary files")
    args = parser.parse_args()
    count = args.megabytes * 2**20 // args.tensor
    content = {"model": {f"t{i}": torch.randn(args.tensor // 4) for i in range(count)}}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        turns = [turn(Path(folder), content, odd=bool(n % 2)) for n in range(-1, args.turns)]
    show(turns[1:])  # the first one warms up


def turn(folder: Path, content: Content, *, odd: bool) -> dict[str, float]:
    """Seconds of one save and load of each kind."""
    plain, ours = folder / "plain", folder / "ours"
    for each in (plain, ours):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir()
    writer = Writer(ours)
    saves = {
        "save": lambda: save(content, FileSystemWriter(str(plain))),
        "save, checksums": lambda: save(content, writer),
    }
    loads = {
        "load": lambda: load(content, FileSystemReader(str(plain))),
        "load, checksums": lambda: checked(content, Reader(ours, "", writer.checksums)),
    }
    spent = {}
    for acts in (saves, loads):
        for name in sorted(acts, reverse=odd):
            spent[name] = seconds(acts[name])
    return spent


def seconds(act: Callable[[], object]) -> float:
    """What `act` takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def save(content: Content, writer: FileSystemWriter) -> None:
    """Write a checkpoint in this thread, as a lone rank does."""
    with quiet_alone():
        state_dict_saver.save(content, storage_writer=writer, no_dist=True)


def load(content: Content, reader: FileSystemReader) -> None:
    """Read a checkpoint in this process."""
    with quiet_alone():
        state_dict_loader.load(content, storage_reader=reader, planner=Planner(), no_dist=True)


def checked(content: Content, reader: Reader) -> None:
    """The same, with the checksums compared beside it, as a start does."""
    with ThreadPoolExecutor(CHECKING_THREADS) as threads:
        checks = [threads.submit(reader.check, name) for name in reader.checksums]
        load(content, reader)
        for check in checks:
            check.result()
    assert METADATA in reader.checksums


def show(turns: list[dict[str, float]]) -> None:
    """Print medians and ranges over the turns."""
    table = Table("", "s without", "s with", "ratio", "range of ratios")
    for name in ("save", "load"):
        pairs = [(one[name], one[f"{name}, checksums"]) for one in turns]
        ratios = sorted(with_ / without for without, with_ in pairs)
        without, with_ = (statistics.median(column) for column in zip(*pairs, strict=True))
        table.add_row(
            name,
            f"{without:.3f}",
            f"{with_:.3f}",
            f"{statistics.median(ratios):.3f}",
            f"{ratios[0]:.3f} to {ratios[-1]:.3f}",
        )
    console = Console()
    console.print(table)
    added = statistics.median(one["save, checksums"] - one["save"] for one in turns)
    apart = f"{max(0.0, added) / SHARE:.1f} s"
    console.print(
        f"A save waits {added:+.3f} s for checksums: {SHARE:.0%} if saves are {apart} apart"
    )


if __name__ == "__main__":
    main()
