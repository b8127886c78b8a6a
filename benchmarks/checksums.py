"""What checksums of checkpoints cost: seconds of saving and loading, with and without them.

    python benchmarks/checksums.py --megabytes 256

Saving is the writing thread's time beside training; loading is what a start waits for.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.distributed.checkpoint import (
    FileSystemReader,
    FileSystemWriter,
    state_dict_loader,
    state_dict_saver,
)

from manta.train.dcp import METADATA, Planner, Reader, Writer
from manta.train.loading import quiet_alone


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    tensors = {f"t{i}": torch.randn(2**18) for i in range(args.megabytes)}
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), {"model": tensors}, args.repeats)


def measure(folder: Path, content: dict[str, dict[str, torch.Tensor]], repeats: int) -> None:
    """Print medians of interleaved repeats."""
    spent: dict[str, list[float]] = {}
    for number in range(repeats):
        measure_once(folder / str(number), content, spent)
    data = (folder / "0" / "ours" / "__0_0.distcp").read_bytes()
    note(spent, "SHA-256 alone", lambda: hashlib.sha256(data).hexdigest())
    for name, seconds in spent.items():
        print(f"{name:24}{statistics.median(seconds):8.3f} s")


def measure_once(
    folder: Path, content: dict[str, dict[str, torch.Tensor]], spent: dict[str, list[float]]
) -> None:
    """One save and load of each kind."""
    plain, ours = folder / "plain", folder / "ours"
    plain.mkdir(parents=True)
    ours.mkdir()
    note(spent, "save, plain", lambda: save(content, FileSystemWriter(str(plain))))
    writer = Writer(ours)
    note(spent, "save, with checksums", lambda: save(content, writer))
    reader = Reader(ours, "", writer.checksums)
    note(spent, "load, plain", lambda: load(content, FileSystemReader(str(plain))))
    note(spent, "load, with checksums", lambda: checked(content, reader))


def note(spent: dict[str, list[float]], name: str, act: Callable[[], object]) -> None:
    """Add the seconds that `act` takes."""
    began = time.perf_counter()
    act()
    spent.setdefault(name, []).append(time.perf_counter() - began)


def save(content: dict[str, dict[str, torch.Tensor]], writer: FileSystemWriter) -> None:
    """Write a checkpoint in this process."""
    with quiet_alone():
        state_dict_saver.save(content, storage_writer=writer, no_dist=True)


def load(content: dict[str, dict[str, torch.Tensor]], reader: FileSystemReader) -> None:
    """Read a checkpoint in this process."""
    with quiet_alone():
        state_dict_loader.load(content, storage_reader=reader, planner=Planner(), no_dist=True)


def checked(content: dict[str, dict[str, torch.Tensor]], reader: Reader) -> None:
    """The same, with the checksums compared beside it, as a start does."""
    with ThreadPoolExecutor(4) as threads:
        checks = [threads.submit(reader.check, name) for name in reader.checksums]
        load(content, reader)
        for check in checks:
            check.result()
    assert METADATA in reader.checksums


if __name__ == "__main__":
    main()
