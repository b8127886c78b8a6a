"""The function that each Ray Train worker runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Literal

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
from manta.elastic.messages.events import Ended, Note
from manta.elastic.messages.group_start import Regroup, Severed, Start
from manta.elastic.snapshot_memory import keeper_vault
from manta.elastic.worker import devices, survivor
from manta.elastic.worker.environment import socket_names
from manta.elastic.worker.faults import Faults
from manta.elastic.worker.mail_reporter import Lap, MailReporter, forward_warnings
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
from manta.state.handover import LiveState, hand_over
from manta.stream import pipeline, plan
from manta.stream.plan import RankBatch
from manta.train.engine import Engine
from manta.train.group_end import leave_group
from manta.train.guards import Rewind
from manta.train.loop import Loop
from manta.train.pause import Pause
from manta.train.threads import compute_here

Outcome = Literal["finished", "stopped", "interrupted"]


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
    if survivor.holds(_key(checked)):
        return
    compute_here(int(os.environ["OMP_NUM_THREADS"]))
    survivor.keep(Survivor(_key(checked), prepared_engine(checked), None))


def prepared_engine(checked: Checked) -> Engine:
    """The engine of a run, in no group, that has computed a pass: compiled, if the run compiles.

    It has no values for its weights yet; who takes it calls `rejoin`.
    """
    resolved = hf_config.resolve(checked.config, checked.manifest.vocabulary)
    engine = Engine(checked.config, resolved, empty=True, joins=True)
    engine.lay()
    engine.warm_up(next(plan.first_steps(checked.corpus, checked.schedule)))
    leave_group(engine)
    return engine


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
        lap, here, checked = Lap(), self._here, self._checked
        config, mailbox = checked.config, self._assignment.mailbox
        compute_here(int(os.environ["OMP_NUM_THREADS"]))
        forward_warnings(mailbox, int(os.environ["RANK"]))
        _join_group(gpus_of(config.scaling.resources_per_worker))
        self._seconds["process_group"] = lap.read()
        engine = self._engine()
        group_start.on_pause(lambda pause: engine.pause.ask(Pause(pause)))
        self._seconds["model"] = lap.read()
        handed = self._handed(engine) if here.joins else None
        self._seconds["state"] = lap.read()
        if here.first:
            self._seconds = _from_the_command_on(self._assignment, here, self._seconds)
        reporter = MailReporter(mailbox, here, engine, self._seconds)
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
