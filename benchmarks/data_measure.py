"""One row of `data.py` in a process of its own: reads, checks, and tells what it cost.

    python benchmarks/data_measure.py '{"mode": "read", ...}'

Writes JSON beside the file of the state. `data.py` starts it; the keys are those of `Task`.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from data_corpus import SEQ_LEN, ids_of, import_streaming, quiet, tokens_of
from data_rows import BATCH, ROWS, Place, Row, expected_ids
from torch import Tensor

WHOLE_CHECKS = 32  # batches of which each token is checked, at the beginning
ONE_ROW_EVERY = 64  # batches: then one row, which costs under a percent of the fastest row
WARM_SECONDS, WARM_SHARE = 5.0, 0.1  # before the steady stretch: whichever ends first
RESUMED_BATCHES = 64
HEADS_AT_FIRST = 2**19  # samples whose numbers are noted, 8 MiB; more when they are full
MIB = 2**20


@dataclass(frozen=True)
class Task:
    """What to do: `mode` is read, resume or soak; `state` the file of the saved state."""

    mode: str
    row: str
    folder: str
    samples: int
    seconds: float
    state: str
    rank: int = 0
    world_size: int = 1

    def place(self, state: Any = None) -> Place:
        """Where and what to read."""
        return Place(Path(self.folder), self.samples, self.rank, self.world_size, state)


# ------------------------------------------------------------------------- the meters


def _processes() -> list[psutil.Process]:
    """This process and all that it started: loader workers, Ray's daemons and workers."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def cpu_seconds() -> float:
    """Processor time of this process and of its living and ended descendants."""
    total = 0.0
    for process in _processes():
        with _gone_is_fine():
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mib() -> dict[str, float]:
    """PSS: private pages plus this row's part of shared ones; mapped files apart, in MiB.

    Mapped files are page cache, which the kernel takes back when it needs it.
    """
    found = {"Pss": 0.0, "Pss_File": 0.0}
    for process in _processes():
        with _gone_is_fine():
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                name = line.split(":")[0]
                if name in found:
                    found[name] += int(line.split()[1]) / 1024
    return {"held": found["Pss"] - found["Pss_File"], "mapped": found["Pss_File"]}


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, PermissionError):
        yield


class Seen:
    """Notes which samples came, and checks tokens, at next to no cost."""

    def __init__(self, rows: int):
        self._heads = np.zeros((HEADS_AT_FIRST, 2), np.int64)
        self._rows, self.batches = rows, 0

    def add(self, batch: Tensor) -> None:
        """Take a batch.

        Raises:
            ValueError: if it has another type or shape, or tokens are wrong.
        """
        if batch.dtype != torch.int64 or batch.shape != (self._rows, SEQ_LEN):
            raise ValueError(f"a batch of {batch.dtype}, {tuple(batch.shape)}")
        values, at = batch.numpy(), self.batches * self._rows
        if at + self._rows > len(self._heads):
            self._heads = np.concatenate([self._heads, np.zeros_like(self._heads)])
        self._heads[at : at + self._rows] = values[:, :2]
        if self.batches < WHOLE_CHECKS:
            self._check(values)
        elif self.batches % ONE_ROW_EVERY == 0:
            self._check(values[:1])
        self.batches += 1

    def _check(self, values: np.ndarray[Any, Any]) -> None:
        if not np.array_equal(values, tokens_of(ids_of(values[:, :2]))):
            raise ValueError(f"batch {self.batches} has tokens that its samples don't have")

    @property
    def ids(self) -> np.ndarray[Any, Any]:
        """Sample ids by batch: shape (batches, rows)."""
        return ids_of(self._heads[: self.batches * self._rows]).reshape(-1, self._rows)


# ------------------------------------------------------------------------------ modes


def read(row: Row, task: Task) -> dict[str, Any]:
    """Read for `task.seconds`; rows that end with an epoch, at most to its end."""
    idle = memory_mib()
    began = time.perf_counter()
    reading = row.open(task.place())
    most = task.samples // BATCH
    seen = Seen(BATCH)
    warm = state_at = None
    for batch in islice(reading.batches, None if row.endless else most):
        now = time.perf_counter()
        if not seen.batches:
            first = now - began
        seen.add(batch)
        spent = now - began - first
        far = not row.endless and seen.batches >= WARM_SHARE * most
        if warm is None and (spent > WARM_SECONDS or far):
            warm = (seen.batches, cpu_seconds(), time.perf_counter())
        if state_at is None and (spent > task.seconds / 2 or seen.batches >= most // 2):
            state_at = seen.batches
            if reading.state is not None:
                Path(task.state).write_bytes(pickle.dumps(reading.state(state_at)))
        if spent > task.seconds:
            break
    stopped = time.perf_counter()
    cpu, memory = cpu_seconds(), memory_mib()
    if isinstance(reading.batches, Generator):
        reading.batches.close()
    assert warm is not None
    tokens = (seen.batches - warm[0]) * BATCH * SEQ_LEN
    ids = seen.ids
    np.save(task.state + ".ids.npy", ids)
    return {
        "first_batch": first,
        "tokens_per_s": tokens / (stopped - warm[2]),
        "cpu_percent_per_m": (cpu - warm[1]) / tokens * 1e6 * 100,
        "held_mib": memory["held"],
        "mapped_mib": memory["mapped"],
        "idle_mib": idle["held"],
        "batches": seen.batches,
        "share": seen.batches / most,
        "state_at": state_at if reading.state is not None else None,
        "spread": _spread(ids, task.samples),
        "order": _verdict(row, task, ids),
    }


def _spread(ids: np.ndarray[Any, Any], samples: int) -> float:
    """Mean range of the ids in a batch, over that of a uniform draw: 1 is a real shuffle.

    The range of n uniform numbers is (n - 1) / (n + 1) of the whole on average.
    """
    fair = samples * (BATCH - 1) / (BATCH + 1)
    return float((ids.max(axis=1) - ids.min(axis=1)).mean() / fair)


def _verdict(row: Row, task: Task, ids: np.ndarray[Any, Any]) -> str:
    """What is wrong with the samples that came; "as planned" and "each once" are right."""
    if row.name.startswith("manta"):
        right = np.array_equal(ids.reshape(-1), expected_ids(task.place(), len(ids)))
        return "as planned" if right else "WRONG ORDER"
    if row.replacing:
        return "with replacement"
    ids = ids.reshape(-1)[: task.samples // BATCH * BATCH]
    repeated = ids.size - len(np.unique(ids))
    return "each once" if not repeated else f"{repeated} REPEATED"


def resume(row: Row, task: Task) -> dict[str, Any]:
    """Go on from the saved state, for some batches."""
    state = pickle.loads(Path(task.state).read_bytes())
    began = time.perf_counter()
    reading = row.open(task.place(state))
    seen = Seen(task.place().rows)
    for batch in islice(reading.batches, RESUMED_BATCHES):
        if not seen.batches:
            first = time.perf_counter() - began
        seen.add(batch)
    if not seen.batches:
        raise ValueError("no batch came after the saved state")
    return {"first_batch": first, "ids": seen.ids.tolist()}


def soak(row: Row, task: Task) -> dict[str, Any]:
    """Read epoch after epoch; print what is held, now and then. For rows without an end."""
    batches = row.open(task.place()).batches
    began = told = time.perf_counter()
    every, tokens, held = max(10.0, task.seconds / 20), 0, []
    print("| minute | M tokens/s | held MiB | mapped MiB |\n| --- | --- | --- | --- |", flush=True)
    for batch in batches:
        tokens += batch.numel()
        now = time.perf_counter()
        if now - told > every:
            memory = memory_mib()
            held.append(memory["held"])
            speed = tokens / (now - told) / 1e6
            minute = (now - began) / 60
            line = f"| {minute:.1f} | {speed:.0f} | {memory['held']:.0f} |"
            print(f"{line} {memory['mapped']:.0f} |", flush=True)
            told, tokens = time.perf_counter(), 0
            if now - began > task.seconds:
                break
    return {"held_mib": held}


# ------------------------------------------------------------------------------- main


def _prepare(row: Row, task: Task) -> None:
    """What is there before the clock starts: imports, Ray, the other ranks."""
    importlib.import_module("manta.config.schedule")
    import_streaming() if row.needs == "streaming" else importlib.import_module(row.needs)
    if row.ray:
        import ray

        importlib.import_module("manta.stream.pipeline")
        os.environ["RAY_AUTH_MODE"] = "disabled"
        if row.name.startswith("manta"):
            importlib.import_module("manta.cluster.embedded").start()  # as `manta train` does
        else:
            ray.init(address="local", include_dashboard=False, logging_level="ERROR")
    if task.world_size > 1:
        torch.distributed.init_process_group("gloo")


def main() -> None:
    """Do the task in the first argument."""
    task = Task(**json.loads(sys.argv[1]))
    row = ROWS[task.row]
    torch.set_num_threads(1)
    with quiet() if task.mode != "soak" else nullcontext():
        _prepare(row, task)
        result = {"read": read, "resume": resume, "soak": soak}[task.mode](row, task)
    # Not to stdout, where Ray and peers have their say too.
    Path(f"{task.state}.{task.mode}.{task.rank}.json").write_text(json.dumps(result))
    # Readers of peers may hang at exit; what is to be measured has been.
    for process in reversed(_processes()[1:]):
        with _gone_is_fine():
            process.terminate()
    os._exit(0)


if __name__ == "__main__":
    main()
