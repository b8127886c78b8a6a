"""Runs of the engine without Ray: in this process, or as several ranks with gloo.

In a module of its own because the ranks' processes must be able to import it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.state import AcceleratorState
from file_vault import FileVault

from manta.elastic.checks.preflight import Checked
from manta.model import hf_config
from manta.schedule.due import due
from manta.state.checkpoint_files import Inventory, TrainState, inventories, newest
from manta.state.skips import Spans
from manta.state.vault import Vault
from manta.state.weights_digest import OPTIMIZER, digest_of
from manta.storage.run_folder import CHECKPOINTS
from manta.stream.plan import RankBatch, local_stream
from manta.train.engine import Engine
from manta.train.loop import Loop

DEADLINE = 60.0  # seconds
# Beside this module: what is imported late, by what it calls. The last one ends the imports.
IMPORTED_BY_RANKS = [
    "plain_runs",
    "pandas",
    "manta.show.tracker",
    "peft",
    "transformers.models.llama.modeling_llama",
    "pytest",
    "imports_done",
]


class Rows:
    """A reporter that keeps every row in a file, as the first rank tells it."""

    def __init__(self, path: Path):
        self._path = path

    def resumed(self, state: TrainState, rows: list[dict[str, Any]], *, source: str) -> None:
        self._write({"resumed": state.step, "source": source, "carried": rows})

    def rewound(self, step: int, skips: Spans) -> None:
        self._write({"rewound": step})

    def recorded(self) -> int:
        return 0  # there is no driver: everything is kept with the checkpoint

    def stepped(self, state: TrainState) -> None:
        pass

    def busy(self, doing: str, share: float = 0.0) -> None:
        pass

    def metrics(self, row: Mapping[str, Any], spent: Mapping[str, float]) -> None:
        self._write(row)

    def checkpoint(self, state: TrainState, path: Path, seconds: float) -> None:
        self._write({"checkpoint": state.step})

    def _write(self, row: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class Fault:
    """Multiplies the loss of some steps, by number, on every rank: a spike or a NaN."""

    steps: tuple[int, ...]
    factor: float

    def __call__(self, engine: Engine) -> None:
        """Put it into an engine."""
        step, forward, now = engine.step, engine.model.forward, [0]

        def stepping(batch: RankBatch, **asked: Any) -> Any:
            now[0] = batch.step.number
            return step(batch, **asked)

        def spoiled(*args: Any) -> Any:
            loss = forward(*args)
            return loss * self.factor if now[0] in self.steps and loss.requires_grad else loss

        engine.step, engine.model.forward = stepping, spoiled  # type: ignore[method-assign]


def engine_of(checked: Checked, *, empty: bool = False) -> Engine:
    """The engine of a run, in this process; without values for its weights if `empty`."""
    # Accelerate keeps one state a process; these tests want engines of several precisions.
    AcceleratorState._reset_state(reset_partial_state=True)
    resolved = hf_config.resolve(checked.config, checked.manifest.vocabulary)
    return Engine(checked.config, resolved, empty=empty)


def loop_of(
    checked: Checked, engine: Engine, rows: Path, attempt: int = 1, vault: Vault | None = None
) -> Loop:
    """The loop of a run, telling `rows`."""
    return Loop(checked.job(attempt, socket.gethostname()), engine, Rows(rows), vault)


def streams_of(
    checked: Checked, rank: int = 0, world_size: int = 1, die_after: int | None = None
) -> Callable[[int], Generator[RankBatch, None, None]]:
    """The streams of one rank; with `die_after`, the process ends after that step.

    By then the checkpoint that was due last before that step is whole, however slow the machine is.
    """

    def streams(cursor: int) -> Generator[RankBatch, None, None]:
        for batch in local_stream(
            checked.corpus, checked.schedule, cursor=cursor, rank=rank, world_size=world_size
        ):
            yield batch
            if batch.step.number == die_after:
                _await_checkpoint(checked, die_after - 1)
                os._exit(9)

    return streams


def _await_checkpoint(checked: Checked, step: int) -> None:
    """Return once the checkpoint that was due last, up to a step, is whole."""
    numbers = (number + 1 for number in range(step) if _saves(checked, number))
    last, deadline = max(numbers, default=0), time.time() + DEADLINE
    while _newest_step(checked) < last:
        assert time.time() < deadline, f"the checkpoint of step {last} is not whole"
        time.sleep(0.01)


def _newest_step(checked: Checked) -> int:
    found = inventories(checked.place / CHECKPOINTS).values()
    return max((one.state.step for one in found if isinstance(one, Inventory)), default=0)


def _saves(checked: Checked, number: int) -> bool:
    return due(checked.schedule.step(number), checked.config, checked.schedule).saves


def train(
    checked: Checked,
    world_size: int = 1,
    *,
    die_after: int | None = None,
    attempt: int = 1,
    snapshots: bool = False,
    fault: Callable[[Engine], None] | None = None,
    kernels: bool = True,
) -> list[dict[str, Any]]:
    """Train as `world_size` ranks of one thread each; returns what was reported by now.

    With `die_after`, every rank is killed once that step is done and its successor asked
    for, as far as its checkpoints go. With `snapshots`, they are kept beside the run. A `fault`
    is put into the engine of each rank. Without `kernels`, Torch traces and differentiates what is
    to be compiled and makes no kernels for it, which takes it most of the time.
    """
    checked.run_dir.mkdir(parents=True, exist_ok=True)
    rows = checked.run_dir / "rows.jsonl"
    try:
        more = (die_after, attempt, snapshots, fault, kernels)
        run_ranks(world_size, _train_rank, checked, rows, *more)
    except mp.ProcessExitedException:
        if die_after is None:
            raise
    return [json.loads(line) for line in rows.read_text().splitlines()]


def _train_rank(
    checked: Checked,
    rows: Path,
    die_after: int | None,
    attempt: int,
    snapshots: bool,
    fault: Callable[[Engine], None] | None,
    kernels: bool,
) -> None:
    if not kernels:
        torch.compiler.set_default_backend("aot_eager")
    engine = engine_of(checked, empty=True)
    vault = FileVault(memory_of(checked), engine.ranks.rank) if snapshots else None
    if fault is not None:
        fault(engine)
    streams = streams_of(checked, engine.ranks.rank, engine.ranks.world_size, die_after)
    loop_of(checked, engine, rows, attempt, vault).run(streams)


def memory_of(checked: Checked) -> Path:
    """Where the snapshots of a run are kept."""
    return checked.run_dir / "memory"


def run_ranks(world_size: int, function: Callable[..., None], *args: Any) -> None:
    """Run `function` in as many processes with gloo between them; raises if one fails.

    The processes meet by a file, for another program could take a TCP port between its choice
    and its use.
    """
    have_fork_server()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world_size, f"file://{folder}/meet", function, args)
        mp.start_processes(_rank, arguments, nprocs=world_size, start_method="forkserver")


def have_fork_server() -> None:
    """Have a server that has imported what ranks need and forks each of them, imports done.

    Python 3.11 hands `sys.path` to the server but never sets it there, and an import that fails is
    passed over: only PYTHONPATH lets the server find this module.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        multiprocessing.set_forkserver_preload(IMPORTED_BY_RANKS)
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _rank(
    rank: int, world_size: int, meet: str, function: Callable[..., None], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1",  # Accelerate asks for it; nothing connects to it
        OMP_NUM_THREADS="1",
    )
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world_size)
    try:
        function(*args)
    finally:
        dist.destroy_process_group()


def proof(run: Checked) -> list[tuple[int, int, int]]:
    """Of each step of a run's ledger its number, first position and digest of the samples."""
    return [(row["step"], row["first_position"], row["digest"]) for row in ledger(run)]


def outcome(run: Checked, rows: list[dict[str, Any]]) -> tuple[Any, ...]:
    """All that training gave: weights, losses, norms, evaluations and samples."""
    checkpoint = newest(run.run_dir / CHECKPOINTS)
    weights = digest_of(checkpoint), digest_of(checkpoint, OPTIMIZER)
    last = {row["step"]: row for row in rows if "grad_norm" in row}
    norms = [row["grad_norm"] for row in last.values()]
    held_out = {
        row["step"]: (row["val_loss"], row.get("val_loss_average"))
        for row in rows
        if "val_loss" in row
    }
    curve = {step: row["loss"] for step, row in last.items()}
    return weights, curve, norms, held_out, proof(run)


def losses(rows: list[dict[str, Any]]) -> dict[int, float]:
    """Training loss by step; a step reported twice must have the same loss."""
    found: dict[int, float] = {}
    for row in rows:
        if "loss" in row:
            assert found.setdefault(row["step"], row["loss"]) == row["loss"]
    return found


def ledger(checked: Checked) -> list[dict[str, Any]]:
    """The rows of a run's ledger."""
    rows: list[dict[str, Any]] = pq.read_table(checked.run_dir / "ledger.parquet").to_pylist()
    return rows
