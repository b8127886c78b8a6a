"""What planning, resuming and the ledger cost in a small run and in the largest that we think of.

    python benchmarks/data_plan.py                  # the manifest of a million shards takes 4 GB
    python benchmarks/data_plan.py --shards 10000

Nothing is trained or read: the planner alone, at 10^9 tokens on one rank and at 10^13 tokens on
4,096, in milliseconds (median of repeats) and the peak of what Python allocates meanwhile. What
is O(1) has the same figures in all columns. Corpora are opened in two processes of their own, one
after the other, as ranks and read tasks do; MiB is what a process's resident peak grows by.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corpus_files import write_manifest

from manta.config.schedule import ScheduleSection
from manta.corpus import MANIFEST, Shard
from manta.sample.tokens import Tokens
from manta.schedule import Schedule
from manta.stream import plan
from manta.stream.ledger import Ledger, LedgerRow, digest
from manta.stream.order import SampleOrder
from manta.stream.verify_ledger import verify_ledger

SEQ_LEN = 2048
REPEATS = 5
VERIFIED = 16  # steps
SHARD_TOKENS = 10**7


@dataclass(frozen=True)
class Case:
    """A run of so many tokens, on so many ranks, seen at a step of it."""

    name: str
    tokens: int
    ranks: int
    batch: int
    share: float

    @property
    def schedule(self) -> Schedule:
        """Of the whole run."""
        section = {"horizon": self.tokens, "lr": 1e-3, "batch": self.batch}
        return Schedule.resolve(ScheduleSection.model_validate(section), SEQ_LEN)

    @property
    def order(self) -> SampleOrder:
        """One epoch holds half of the run's samples."""
        return SampleOrder(key="made/train", seed=1, num_samples=self.tokens // SEQ_LEN // 2)


CASES = [
    Case("10^9 tokens, 1 rank, start", 10**9, 1, 8192, 0.0),
    Case("10^13, 4,096 ranks, start", 10**13, 4096, 8192, 0.0),
    Case("10^13, 4,096 ranks, middle", 10**13, 4096, 8192, 0.5),
    Case("10^13, 4,096 ranks, near its end", 10**13, 4096, 8192, 0.999),
]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=10**6, help="in the largest manifest")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.read:
        _read_manifest(asked.read)
        return
    measured = [_measure(case) for case in CASES]
    print("| ms (KiB) | " + " | ".join(case.name for case in CASES) + " |")
    print("| --- |" + " --- |" * len(CASES))
    for name in measured[0]:
        print(f"| {name} | " + " | ".join(cells[name] for cells in measured) + " |")
    print("\n| shards | manifest MB | first process of a node ms | MiB | others ms | MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for shards in sorted({10, 1000, asked.shards}):
        print(_manifest_row(shards), flush=True)


def _measure(case: Case) -> dict[str, str]:
    schedule, order = case.schedule, case.order
    step = schedule.step(int(case.share * (schedule.steps - 2 * VERIFIED)))
    cursor, rank = step.first_position, case.ranks // 2
    block = next(plan.blocks(schedule, cursor, rank, case.ranks))
    positions = plan.positions_of(block.spans)
    ids = order.ids_at(positions)
    return {
        "schedule": _cost(lambda: case.schedule),
        "resume: step at a cursor": _cost(lambda: schedule.step_at(cursor)),
        "resume: first small block": _cost(
            lambda: next(plan.blocks(schedule, cursor, rank, case.ranks, 2**16))
        ),
        "a block: its steps and rows": f"{len(block.shares):,} and {block.rows:,}",
        "a block": _cost(lambda: next(plan.blocks(schedule, cursor, rank, case.ranks))),
        "positions and ids of a block": _cost(lambda: order.ids_at(plan.positions_of(block.spans))),
        "digest of a rank's rows of a step": _cost(
            lambda: digest(ids[: max(1, case.batch // case.ranks)])
        ),
        "ids and digest of a whole step": _cost(
            lambda: digest(order.ids(cursor, cursor + case.batch))
        ),
        f"ledger: append {VERIFIED} rows": _append(schedule, order),
        f"ledger: verify {VERIFIED} rows": _verify(schedule, order),
    }


def _rows(schedule: Schedule, order: SampleOrder) -> list[LedgerRow]:
    rows = []
    for number in range(VERIFIED):
        step = schedule.step(number)
        end = step.first_position + step.batch_size
        ids = order.ids(step.first_position, end)
        rows.append(
            LedgerRow(
                number + 1, step.first_position, end - 1, step.tokens_after, 1, 1, digest(ids)
            )
        )
    return rows


def _append(schedule: Schedule, order: SampleOrder) -> str:
    rows = _rows(schedule, order)
    with tempfile.TemporaryDirectory() as folder:
        number = iter(range(10**6))
        return _cost(lambda: Ledger(Path(folder) / str(next(number))).append(rows))


def _verify(schedule: Schedule, order: SampleOrder) -> str:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger")
        ledger.append(_rows(schedule, order))
        return _cost(lambda: verify_ledger(ledger, schedule, order))


def _cost(work: Callable[[], object]) -> str:
    """Milliseconds, and KiB at the peak; memory in a call of its own, as tracing takes time."""
    work()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return f"{statistics.median(times) * 1e3:.3g} ({peak / 1024:,.0f})"


# ---------------------------------------------------------------------------- manifest


def _manifest_row(shards: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        made = [
            Shard(
                file=f"train-{i:05d}.arrow",
                split="train",
                documents=10_000,
                tokens=SHARD_TOKENS + i % 7,
                bytes=2 * SHARD_TOKENS + i % 1000,
                sha256=f"{i:064x}",
            )
            for i in range(shards)
        ]
        write_manifest(Path(folder), made, vocab_size=2**15)
        del made
        size = (Path(folder) / "manifest.json").stat().st_size / 1e6
        command = [sys.executable, __file__, "--read", folder]
        environment = {**os.environ, "MANTA_CACHE": f"{folder}/cache"}
        cells = [
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            for _ in range(2)
        ]
        found = " | ".join(cell.stdout.strip() for cell in cells)
        return f"| {shards:,} | {size:,.1f} | {found} |"


def _read_manifest(folder: Path) -> None:
    """Open a corpus as a reading process does, without touching a shard: ms and MiB more."""
    fingerprint = re.search(r'"fingerprint": "(\w+)"', (folder / MANIFEST).open().read(1000))
    assert fingerprint is not None
    corpus = plan.Corpus(str(folder), fingerprint[1], "train", Tokens("uint16"), SEQ_LEN, 1)
    before = _peak_mib()
    began = time.perf_counter()
    plan.order_of(corpus)
    spent = time.perf_counter() - began
    print(f"{spent * 1e3:,.3g} | {_peak_mib() - before:,.0f}")


def _peak_mib() -> float:
    """Not getrusage's, which a process takes over from the one that started it."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
