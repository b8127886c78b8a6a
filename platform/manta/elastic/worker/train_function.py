"""The function that each Ray Train worker runs."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Any, Literal

import ray
import torch
import torch._inductor.config as inductor
import torch.distributed as dist
from ray.actor import ActorHandle
from ray.exceptions import RayError

from manta.config.errors import ErrorReport, MantaError
from manta.config.in_place import goes_on_in_place
from manta.config.scaling import gpus_of
from manta.elastic.checks.preflight import Checked, try_model
from manta.elastic.messages import group_start
from manta.elastic.messages.assignment import Assignment
from manta.elastic.messages.events import (
    CheckpointSaved,
    Ended,
    GroupStarted,
    Note,
    Rewound,
    RowLogged,
    StartTimed,
)
from manta.elastic.messages.group_start import Regroup, Severed, Start
from manta.elastic.snapshot_memory import keeper_vault
from manta.elastic.worker import devices, survivor
from manta.elastic.worker.environment import socket_names
from manta.elastic.worker.faults import Faults
from manta.elastic.worker.host_memory import host_memory
from manta.elastic.worker.out_of_memory import (
    ForwardPasses,
    halve_micro_batch,
    is_out_of_memory,
    refuse_smaller_passes,
)
from manta.elastic.worker.survivor import EngineKey, Survivor
from manta.model import hf_config
from manta.model.trial_result import Tried
from manta.parallel.muster import muster
from manta.parallel.ranks import EXCHANGE_LIMIT, is_severed
from manta.state.checkpoint_files import TrainState
from manta.state.handover import LiveState, hand_over
from manta.state.skips import Spans
from manta.state.state_size import state_bytes
from manta.storage.place import Place
from manta.stream import pipeline
from manta.stream.plan import RankBatch
from manta.train.device_kind import device_kind
from manta.train.engine import Engine
from manta.train.group_end import leave_group
from manta.train.guards import Rewind
from manta.train.loop import Loop
from manta.train.pause import Pause
from manta.train.reporter import Source
from manta.train.threads import compute_here

Outcome = Literal["finished", "stopped", "interrupted"]
# Seconds between two signs of life of rank 0. A message takes a millisecond or two of CPU time at
# both ends, on cores that may be training.
SIGN_SECONDS = 0.5


def train(assignment: Assignment) -> None:
    """Train as one rank of the group, from where the group before was or what is saved.

    Raises:
        Regroup: when another group should go on from here.
        MantaError: for an error that trying again can't fix; the driver has been told.
    """
    try:
        outcome = _outcome(assignment)
    finally:
        group_start.end()
    if outcome is not None:
        ray.get(assignment.mailbox.put.remote(Ended(outcome)))


def _outcome(assignment: Assignment) -> Outcome | None:
    """Train; returns the run's outcome on the first rank, else None."""
    entered, here = time.time(), group_start.current()
    work = _Work(assignment, here, {**here.seconds, "imports": entered - here.began})
    left: Exception | None = None
    try:
        outcome = work.train()
        first = dist.get_rank() == 0
    except MantaError as error:
        # Trying again would fail the same way: tell the driver before the group falls apart.
        ray.get(assignment.mailbox.fail.remote(ErrorReport.of(error)))
        raise
    except Rewind as rewind:
        raise Regroup(str(rewind)) from rewind
    except RayError as error:
        left = error.with_traceback(None)  # what was read came from a node that is gone
    except RuntimeError as error:
        if not is_severed(error):
            work.consider_memory(error)
            raise
        left = Severed(str(error))
    # Behind the `except` blocks, whose errors hold frames that hold the process group.
    if left is None and outcome is None:
        left = Regroup("asked to leave")
    if left is not None:
        work.survive()
        raise left
    return outcome if first else None


def prepare(checked: Checked, micro_batch: int | None) -> None:
    """Make the engine of a run in this process, without values for its weights, for a later group.

    Args:
        checked: the run.
        micro_batch: most rows of a forward pass; None: as configured.
    """
    checked = _with_micro_batch(checked, micro_batch)
    compute_here(int(os.environ["OMP_NUM_THREADS"]))
    resolved = hf_config.resolve(checked.config, checked.manifest.vocabulary)
    engine = Engine(checked.config, resolved, empty=True, joins=True)
    leave_group(engine)
    survivor.keep(Survivor(_key(checked), engine, None))


def _key(checked: Checked) -> EngineKey:
    return checked.binding, str(checked.run_dir), checked.config.train.micro_batch


class _Work:
    """One rank's part in a group, from the process group to the last step."""

    def __init__(self, assignment: Assignment, here: Start, seconds: dict[str, float]):
        self._assignment, self._here, self._seconds = assignment, here, seconds
        self._checked = _with_micro_batch(assignment.checked, here.micro_batch)
        self._passes = ForwardPasses()
        self._survivor: Survivor | None = None
        self._loop: Loop | None = None

    def train(self) -> Outcome | None:
        """Train; returns the run's outcome, or None if another group should go on."""
        lap, here, checked = _Lap(), self._here, self._checked
        config, mailbox = checked.config, self._assignment.mailbox
        compute_here(int(os.environ["OMP_NUM_THREADS"]))
        _forward_warnings(mailbox, int(os.environ["RANK"]))
        _join_group(gpus_of(config.scaling.resources_per_worker))
        self._seconds["process_group"] = lap.read()
        engine = self._engine()
        group_start.on_pause(lambda pause: engine.pause.ask(Pause(pause)))
        self._seconds["model"] = lap.read()
        handed = self._handed(engine) if here.joins else None
        self._seconds["state"] = lap.read()
        if here.first:
            self._seconds = _from_the_command_on(self._assignment, here, self._seconds)
        reporter = _MailReporter(mailbox, here, engine, self._seconds)
        faults = Faults(config.faults, engine.ranks.rank, here.attempt, checked.run_dir)
        faults.spoil(engine.model)
        self._loop = Loop(
            checked.job(here.attempt, here.node[:8]),
            engine,
            reporter,
            self._vault(engine),
            faults.at,
            handed=handed,
            stands=goes_on_in_place(config),
        )
        outcome = self._loop.run(self._streams(engine))
        if outcome != "paused":
            return outcome
        return "interrupted" if self._loop.pause == Pause.STOP else None

    def _engine(self) -> Engine:
        """The engine that outlived the group before in this process, or a new one."""
        checked, here = self._checked, self._here
        config = checked.config
        key = _key(checked)
        kept = survivor.take(key) if here.joins else None
        if kept is None:
            tried = _tried(checked, self._assignment.mailbox) if here.first else None
            resolved = hf_config.resolve(config, checked.manifest.vocabulary)
            examine = tried is not None and not tried.whole
            engine = Engine(config, resolved, examine=examine, empty=True, joins=here.joins)
            kept = Survivor(key, engine, None)
        else:
            kept.engine.rejoin()
        self._survivor = kept
        return kept.engine

    def _handed(self, engine: Engine) -> LiveState | None:
        """What the ranks that were in the group before have; the engine then has it, too."""
        kept = self._survivor
        assert kept is not None

        def overwriting() -> None:
            kept.live = None

        engine.trained, kept.live = hand_over(engine.trained, kept.live, overwriting)
        engine.lay()
        if kept.live is None:  # none of them could keep its state after all
            engine.begin()
        return kept.live

    def _streams(self, engine: Engine) -> Callable[[int], Generator[RankBatch, None, None]]:
        def streams(cursor: int) -> Generator[RankBatch, None, None]:
            batches = pipeline.stream(
                self._checked.corpus,
                self._checked.schedule,
                cursor=cursor,
                rank=engine.ranks.rank,
                world_size=engine.ranks.world_size,
            )
            return self._passes.watching(batches, engine.largest_pass)

        return streams

    def _vault(self, engine: Engine) -> keeper_vault.KeeperVault | None:
        here = self._here
        if not here.keepers:
            return None
        return keeper_vault.KeeperVault(here.keepers, here.node, engine.ranks.rank)

    def survive(self) -> None:
        """Leave the process group, and keep for the next group what this process has of the run."""
        kept, loop = self._survivor, self._loop
        if kept is None or not goes_on_in_place(self._checked.config):
            leave_group()
            return
        if loop is not None:
            kept.live = loop.live_state() or (None if loop.resumed else kept.live)
        leave_group(kept.engine, loop)
        if kept.live is not None:
            survivor.keep(kept)

    def consider_memory(self, error: RuntimeError) -> None:
        """Have smaller forward passes if the device's memory was too small for them.

        Raises:
            Regroup: so that another group makes smaller ones.
        """
        rows, mailbox = self._passes.rows, self._assignment.mailbox
        # Before the first step a smaller forward pass would not help: treat it as any failure.
        if rows is None or not is_out_of_memory(error):
            return
        train = self._assignment.checked.config.train
        if train.reproducible:
            refuse_smaller_passes(mailbox, rows)
            return
        halve_micro_batch(mailbox, self._here.micro_batch or train.micro_batch, rows)
        raise Regroup("out of memory") from error


def _tried(checked: Checked, mailbox: ActorHandle) -> Tried:
    """The facts about the run's model; remarks on it go to the run's record."""
    tried = checked.tried or try_model(checked)
    if dist.get_rank() == 0:
        for remark in tried.remarks:
            mailbox.put.remote(Note(remark))
    return tried


class _Lap:
    """A stopwatch for consecutive parts."""

    def __init__(self) -> None:
        self._since = time.time()

    def read(self) -> float:
        """Seconds since the last call."""
        before, self._since = self._since, time.time()
        return self._since - before


def _from_the_command_on(
    assignment: Assignment, here: Start, seconds: dict[str, float]
) -> dict[str, float]:
    """Part of a run's start, from the user's command on → seconds."""
    controller = here.began - here.seconds["processes"] - assignment.requested
    return {**assignment.before, "controller": controller, **seconds}


def _join_group(gpus: float) -> None:
    """Join the process group of all ranks, on this rank's device.

    Not done by Ray Train's backend, whose controller would block while it waits for ranks that
    may have died.

    Raises:
        Severed: if the group is given up before all ranks are there.
    """
    if torch.cuda.is_available():
        devices.take_device(int(os.environ["LOCAL_RANK"]), gpus)
        os.environ.update(socket_names(ray.util.get_node_ip_address()))
        if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
            inductor.compile_threads = compile_threads(int(os.environ["LOCAL_WORLD_SIZE"]))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = muster(rank, world_size, group_start.is_given_up)
    if store is None:
        raise Severed("the group was given up before all of its workers were there")
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=EXCHANGE_LIMIT
    )


def compile_threads(workers: int) -> int:
    """Compile processes of one worker, if `workers` workers of this node start together.

    Torch's default is up to 32 for each worker.
    """
    return max(1, min(32, len(os.sched_getaffinity(0)) // workers))


def _with_micro_batch(checked: Checked, rows: int | None) -> Checked:
    if rows is None:
        return checked
    train = checked.config.train.model_copy(update={"micro_batch": rows})
    return replace(checked, config=checked.config.model_copy(update={"train": train}))


class _MailReporter:
    """The engine's reporter, which sends to the driver's mailbox."""

    def __init__(self, mailbox: ActorHandle, here: Start, engine: Engine, starts: dict[str, float]):
        self._mailbox, self._attempt, self._hourly = mailbox, here.attempt, here.hourly
        self._world_size = engine.ranks.world_size
        self._model = model(engine)
        self._starts, self._logged = starts, False
        self._lap = _Lap()
        self._steps, self._told, self._doing = 0, 0.0, ""

    def resumed(self, state: TrainState, rows: list[dict[str, Any]], *, source: Source) -> None:
        """Report that the group is formed, and the state it goes on from."""
        self._starts["state"] += self._lap.read()
        event = GroupStarted(
            world_size=self._world_size,
            attempt=self._attempt,
            step=state.step,
            tokens=state.tokens,
            source=source,
            rows=rows,
            hardware={**hardware(), **self._model},
            seconds=self._starts,
            hourly=self._hourly,
        )
        self._mailbox.put_rows.remote(self._attempt, len(rows), event)

    def recorded(self) -> int:
        """How many rows are durable at the driver. A round trip, once a checkpoint."""
        rows: int = ray.get(self._mailbox.recorded.remote(self._attempt))
        return rows

    def rewound(self, step: int, skips: Spans) -> None:
        """Report that rows after `step` are void, and the steps in `skips` are left out."""
        self._mailbox.put.remote(Rewound(step, skips))

    def stepped(self, state: TrainState) -> None:
        """Report a step as a sign of life, at most once in `SIGN_SECONDS`."""
        self._steps += 1
        if self._is_due(""):
            self._mailbox.stepped.remote(self._attempt, self._steps, state.tokens)

    def busy(self, doing: str, share: float = 0.0) -> None:
        """Report an activity other than a step as a sign of life."""
        if self._is_due(doing) or share == 1:
            self._mailbox.busy.remote(self._attempt, doing, share)

    def _is_due(self, doing: str) -> bool:
        """Whether a sign of life is due: at once if the activity changed."""
        now = time.monotonic()
        if doing == self._doing and now - self._told < SIGN_SECONDS:
            return False
        self._doing, self._told = doing, now
        return True

    def metrics(self, row: Mapping[str, Any], spent: Mapping[str, float]) -> None:
        """Report a row of metrics, and what the time went to."""
        if "loss" in row and not self._logged:
            self._logged = True
            self._timed("data_and_first_step")
        elif not self._logged:
            self._timed("first_evaluation")
        self._mailbox.put_rows.remote(self._attempt, 1, RowLogged(dict(row), dict(spent)))

    def checkpoint(self, state: TrainState, path: Place, seconds: float) -> None:
        """Report a complete checkpoint."""
        event = CheckpointSaved(state.step, state.tokens, str(path), seconds)
        self._mailbox.put.remote(event)

    def _timed(self, part: str) -> None:
        self._mailbox.put.remote(StartTimed({part: self._lap.read()}))


def hardware() -> dict[str, Any]:
    """Description of the hardware that this worker computes on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: dict[str, Any] = {
        "kind": device_kind(device),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def model(engine: Engine) -> dict[str, Any]:
    """Description of the model: type, size, precision, and memory for its state."""
    sizes = [(p.numel(), p.requires_grad) for p in engine.trained.lm.parameters()]
    total, trained = sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)
    config = getattr(engine.trained.lm, "config", None)
    return {
        "model": getattr(config, "model_type", engine.config.model.type),
        "parameters": total,
        "trained_parameters": trained,
        **({} if engine.trained.base is None else {"base": f"{engine.trained.base:016x}"}),
        "precision": engine.config.train.precision,
        "param_dtype": engine.config.train.param_dtype,
        "matmul_precision": engine.config.train.matmul_precision,
        "host_memory": host_memory(
            state_bytes(
                total if engine.trained.base is None else trained,
                trained,
                engine.config.optimizer.numbers_kept,
            ),
            engine.ranks.world_size,
            int(os.environ["LOCAL_WORLD_SIZE"]),
            sharded=engine.trained.sharded,
            snapshots=engine.config.checkpoint.snapshot_every != 0,
        ).most,
    }


class _MailHandler(logging.Handler):
    """Sends the engine's warnings to the driver, for people."""

    def __init__(self, mailbox: ActorHandle):
        super().__init__(logging.WARNING)
        self._mailbox = mailbox

    def emit(self, record: logging.LogRecord) -> None:
        self._mailbox.put.remote(Note(record.getMessage()))


def _forward_warnings(mailbox: ActorHandle, rank: int) -> None:
    """Forward warnings: common ones from rank 0, those about a rank's own node from each."""
    own = (devices.__name__, keeper_vault.__name__)
    for name in ("manta",) if rank == 0 else own:
        logging.getLogger(name).handlers = [_MailHandler(mailbox)]
