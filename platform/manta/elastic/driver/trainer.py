"""A run seen from its driver: start the worker group, follow it, keep the record."""

from __future__ import annotations

import importlib
import os
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray.actor import ActorHandle

from manta.config.errors import CorpusError, ErrorReport, MantaError, TrainingError
from manta.config.run import RunConfig, gpus_of
from manta.corpus.inspect import check_shards
from manta.elastic.checks.machine import refuse_too_much
from manta.elastic.checks.preflight import Checked
from manta.elastic.cluster_state.autoscaler import may_grow
from manta.elastic.controller.slots import release_all_of
from manta.elastic.driver.follower import Follower, Watcher
from manta.elastic.driver.signals import stop_signals
from manta.elastic.messages.assignment import TrainingOrder
from manta.elastic.messages.events import Note
from manta.elastic.messages.mailbox import open_mailbox
from manta.elastic.worker.environment import runtime_env_of
from manta.elastic.worker.worker_calls import work
from manta.record.context import RunContext
from manta.show.tracker import PAUSED, Tracker

if TYPE_CHECKING:
    from manta.elastic.controller.policy import Elasticity, WorkerShare
    from manta.elastic.controller.warm_workers import Spares

# How often the driver looks: for messages, and at a group that has ended.
POLL_SECONDS = 0.5
# A corpus up to this size is read once at each start, to see that it is whole; a larger one is
# left to `manta inspect` and `manta verify`.
CHECKED_BYTES = 8 * 2**30
# What an abandoned controller takes to end, at most.
ABANDON_SECONDS = 5.0
# Spares are worth their imports only in a run that is longer than these, unless asked for.
WARM_AFTER_SECONDS = 15.0


@dataclass(frozen=True)
class Result:
    """How a run ended: `paused` if its watcher asked for it."""

    status: Literal["finished", "stopped", "paused"]
    run_dir: str


def train(
    checked: Checked,
    *,
    console: bool = True,
    submitted: float | None = None,
    spent: Mapping[str, float] | None = None,
    owner: str | None = None,
    watcher: Watcher | None = None,
    share: WorkerShare | None = None,
    pool: Spares | None = None,
    begun: Spares | None = None,
    context: RunContext | None = None,
) -> Result:
    """Train a checked run on the Ray that this process is connected to, to its end.

    Continues from the newest whole checkpoint if the run has one.

    Args:
        checked: what `preflight.check` found sound.
        console: show the run on standard output.
        submitted: when the user asked for it, seconds since the epoch, for the breakdown.
        spent: seconds of what is known of the time since then, by its parts.
        owner: a name of its own for what the run holds in the cluster.
        watcher: who follows the run, and may ask it to pause.
        share: who says how many workers the run may have, if others run beside it.
        pool: from `open_worker_pool`, if other runs with the same needs follow in this process.
        begun: workers from `begin_workers`; they end with the run.
        context: what the run is a part of, for W&B.

    Raises:
        DivergedError: when loss or gradient forbid to go on; the record says why.
        MantaError: when training can't go on; the record says why.
        RunError: when the run's directory can't be used.
        KeyboardInterrupt: when interrupted; the record is closed first.
    """
    check_resources(checked.config)
    tracker = checked.tracker(console=console, context=context)
    follower = Follower(tracker, watcher)
    try:
        with open_mailbox(tracker.attempts) as mailbox:
            owner = owner or f"manta-{uuid.uuid4().hex}"
            elasticity = _elasticity(checked, mailbox, owner, share, pool, begun)
            order = TrainingOrder(
                checked.without_shards(), mailbox, *_spent_before(submitted, spent)
            )
            failure = _follow(checked, mailbox, follower, _Group(order, elasticity))
    except KeyboardInterrupt:
        tracker.finish("interrupted", reason="interrupted from outside, without a checkpoint")
        raise
    except BaseException as error:
        tracker.finish("failed", reason=str(error))
        raise
    if follower.outcome == "interrupted":
        return _end_early(tracker, watcher)
    if failure or follower.outcome is None:
        problem = failure or TrainingError("the workers ended without a result")
        tracker.finish("failed", reason=str(problem))
        raise problem
    tracker.finish(follower.outcome)
    return Result(follower.outcome, str(tracker.run_dir))


def _spent_before(
    submitted: float | None, spent: Mapping[str, float] | None
) -> tuple[dict[str, float], float]:
    """Seconds since the user asked for the run, by their parts, and the time now."""
    now, known = time.time(), dict(spent or {})
    return {**known, "driver": now - (submitted or now) - sum(known.values())}, now


def _end_early(tracker: Tracker, watcher: Watcher | None) -> Result:
    """The run was saved and left on the way: by who watches it, or by a signal."""
    if watcher is not None and watcher.wants_stop():
        tracker.finish("interrupted", reason=PAUSED)
        return Result("paused", str(tracker.run_dir))
    tracker.finish("interrupted", reason="interrupted from outside")
    raise KeyboardInterrupt


def _follow(
    checked: Checked, mailbox: ActorHandle, follower: Follower, group: _Group
) -> MantaError | None:
    """Run the worker groups and pass their messages on; returns why they failed, if they did."""
    shards = _ShardCheck(checked)
    group.start()
    shards.start()
    try:
        with stop_signals(group.asked_to_stop):
            while group.is_alive():
                group.join(POLL_SECONDS)
                shards.raise_if_damaged()
                follower.take_from(mailbox)
                if follower.wants_stop():
                    group.asked_to_stop.set()
                group.stop_if_asked()
    except BaseException:
        group.abandon()
        raise
    finally:
        release_all_of(group.owner)
    follower.take_from(mailbox)
    if group.asked_to_stop.is_set() and follower.outcome is None:
        raise KeyboardInterrupt
    problem: ErrorReport | None = ray.get(mailbox.failure.remote())
    if problem is not None:
        return problem.error()
    return None if group.failure is None else TrainingError(group.failure)


class _ShardCheck(threading.Thread):
    """Compares the corpus's checksums with its manifest while the run starts and trains.

    Reading maps shards and can't see a byte that was changed.
    """

    def __init__(self, checked: Checked):
        super().__init__(name="manta-shards", daemon=True)
        self._checked = checked
        self._problem: str | None = None

    def run(self) -> None:
        """Read all shards once, unless they are many or come by a cache that does it."""
        folder, manifest = self._checked.config.corpus, self._checked.manifest
        if "://" in folder or sum(shard.bytes for shard in manifest.shards) > CHECKED_BYTES:
            return
        try:
            check_shards(folder, manifest)
        except CorpusError as error:
            self._problem = str(error)

    def raise_if_damaged(self) -> None:
        """To be called now and then.

        Raises:
            TrainingError: naming the damaged shards.
        """
        if self._problem is not None:
            raise TrainingError(
                f"{self._problem}; or restore them, and the same command continues the run"
            )


class _Group(threading.Thread):
    """Ray Train's `fit`, which blocks, in a thread of its own.

    The main thread stays free for messages and for Ctrl-C.
    """

    def __init__(self, order: TrainingOrder, elasticity: Elasticity):
        super().__init__(name="manta-group", daemon=True)
        self.owner = elasticity.owner
        self._trainer = _trainer(order)
        self._trainer.elasticity = elasticity
        self._mailbox = order.mailbox
        self.failure: str | None = None
        self.asked_to_stop = threading.Event()
        self._told = False

    def run(self) -> None:
        """Block until the last group has ended."""
        try:
            self._trainer.fit()
        except Exception as error:
            self.failure = str(error)

    def stop_if_asked(self) -> None:
        """Have the run saved and ended at the next step. Returns at once."""
        if self._told or not self.asked_to_stop.is_set() or self._trainer.controller is None:
            return
        self._told = True
        message = "interrupted: saving a checkpoint; once more ends the run at once"
        self._mailbox.put.remote(Note(message))
        self._trainer.controller.stop()

    def abandon(self) -> None:
        """End the workers, and the controller with them; Ray can be shut down afterwards."""
        if self._trainer.controller is not None:
            self._trainer.controller.abandon()
        self.join(ABANDON_SECONDS)


def _trainer(order: TrainingOrder) -> Any:
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig

    from manta.elastic.controller.train_controller import ElasticTrainer

    checked = order.checked
    return ElasticTrainer(
        work,
        train_loop_config={"order": order},
        # Only what Ray Train insists on: where and how many is our controller's business.
        scaling_config=ScalingConfig(num_workers=checked.config.scaling.min),
        # Ray Train's own files: our checkpoints are not its business.
        run_config=RayRunConfig(
            name="ray",
            storage_path=str(checked.run_dir),
            # Without a limit: the mailbox ends what makes no progress.
            failure_config=FailureConfig(max_failures=-1),
        ),
    )


def open_worker_pool(resources: dict[str, float]) -> Spares | None:
    """Workers that several runs use one after the other, so that only the first waits for them.

    None where workers have accelerators: a process stays with the devices it has seen first.
    """
    from manta.elastic.controller.policy import open_pool

    return None if gpus_of(resources) else open_pool(resources, runtime_env_of(resources))


def load_controller() -> None:
    """Import what training needs on the driver. Takes a second: run it while Ray starts."""
    importlib.import_module("manta.elastic.controller.train_controller")


def _elasticity(
    checked: Checked,
    mailbox: ActorHandle,
    owner: str,
    share: WorkerShare | None,
    pool: Spares | None,
    begun: Spares | None,
) -> Elasticity:
    from manta.elastic.controller.policy import Elasticity

    scaling, schedule = checked.config.scaling, checked.schedule
    return Elasticity(
        scaling=scaling,
        total_tokens=schedule.positions * schedule.seq_len,
        snapshots=checked.config.checkpoint.snapshot_every != 0 and hasattr(os, "memfd_create"),
        warm_after=WARM_AFTER_SECONDS if scaling.spares is None else 0.0,
        owner=owner,
        pool=pool,
        begun=begun,
        share=share,
        mailbox=mailbox,
        runtime_env=runtime_env_of(scaling.resources_per_worker),
    )


def check_resources(config: RunConfig) -> None:
    """Refuse what a machine that can't grow will never have.

    Raises:
        RunError: saying what it has.
    """
    if may_grow():
        return
    have = ray.cluster_resources()
    wanted = config.scaling.resources_per_worker
    refuse_too_much(config, {name: have.get(name, 0) for name in wanted})
