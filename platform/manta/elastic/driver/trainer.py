"""The driver's side of a run: start the worker group, follow it, keep the record."""

from __future__ import annotations

import importlib
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray.actor import ActorHandle

from manta.config.errors import CorpusError, DivergedError, ErrorReport, MantaError, TrainingError
from manta.config.in_place import goes_on_in_place
from manta.config.run import RunConfig
from manta.config.scaling import gpus_of
from manta.corpus.inspect import check_shards
from manta.elastic.checks.evaluators_data import check_evaluators_fit, resources_of
from manta.elastic.checks.machine import refuse_too_much
from manta.elastic.checks.preflight import Checked
from manta.elastic.cluster_state.autoscaler import may_grow
from manta.elastic.controller.slots import release_all_of
from manta.elastic.driver.evaluations_beside import EvaluationsBeside
from manta.elastic.driver.follower import Follower, Watcher, stalled
from manta.elastic.driver.signals import stop_signals
from manta.elastic.driver.stall_watch import StallWatch
from manta.elastic.messages.assignment import Assignment
from manta.elastic.messages.events import Note
from manta.elastic.messages.mailbox import open_mailbox
from manta.elastic.worker.environment import runtime_env_of
from manta.elastic.worker.worker_calls import work
from manta.record.alert_record import AlertCause
from manta.record.context import RunContext
from manta.record.run_state import Totals
from manta.show.tracker import PAUSED, Tracker

if TYPE_CHECKING:
    from manta.elastic.controller.holdings import Elasticity, WorkerShare
    from manta.elastic.controller.warm_workers import WarmWorkers

# Seconds between two looks of the driver for messages and for the group's end.
POLL_SECONDS = 0.5
# A corpus up to this size is read once at each start, to compare its checksums; a larger one only
# by `manta inspect` and `manta verify`.
CHECKED_BYTES = 8 * 2**30
# Most seconds to wait for the end of an abandoned controller.
ABANDON_SECONDS = 5.0
# Seconds of training before warm workers start: in a shorter run they don't pay, unless asked for.
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
    pool: WarmWorkers | None = None,
    begun: WarmWorkers | None = None,
    context: RunContext | None = None,
) -> Result:
    """Train a checked run on the Ray that this process is connected to, to its end.

    Continues from the newest complete checkpoint if the run has one.

    Args:
        checked: the run, checked by `preflight.check`.
        console: whether to show the run on standard output.
        submitted: time of the user's command, in seconds since the epoch, for the breakdown.
        spent: part of the time since `submitted` → seconds, as far as known.
        owner: unique name under which the run holds slots in the cluster.
        watcher: follows the run, and may ask it to pause.
        share: assigns the run's number of workers if other runs share the cluster.
        pool: pool from `open_worker_pool`, if runs with the same needs follow in this process.
        begun: workers from `begin_workers`, which end with the run.
        context: the whole that the run is part of, such as a sweep, for W&B.

    Raises:
        DivergedError: when loss or gradient is bad and the config says stop; the record has why.
        MantaError: when training can't go on; the record says why.
        RunError: when the run's directory can't be used.
        KeyboardInterrupt: when interrupted; the record is closed first.
    """
    check_resources(checked.config)
    tracker = checked.tracker(console=console, context=context)
    try:
        with open_mailbox(tracker.attempts) as mailbox:
            beside = EvaluationsBeside(checked, tracker, mailbox, watcher)
            follower = Follower(tracker, watcher, beside)
            owner = owner or f"manta-{uuid.uuid4().hex}"
            elasticity = _elasticity(checked, tracker.totals, mailbox, owner, share, pool, begun)
            assignment = Assignment(
                checked.without_shards(), mailbox, *_spent_before(submitted, spent)
            )
            with _evaluating(beside):
                failure = None
                if beside.out_of_patience:  # as the driver before this one found
                    follower.outcome = "stopped"
                else:
                    group = _Group(assignment, elasticity)
                    failure = _follow(checked, mailbox, follower, group, beside, tracker)
                if failure is None and follower.outcome in ("finished", "stopped"):
                    _await_evaluations(beside, follower, mailbox, tracker)
    except KeyboardInterrupt:
        tracker.finish("interrupted", reason="interrupted from outside, without a checkpoint")
        raise
    except BaseException as error:
        _fail(tracker, error)
        raise
    if follower.outcome == "interrupted":
        return _end_early(tracker, watcher)
    if failure or follower.outcome is None:
        problem = failure or TrainingError("the workers ended without a result")
        _fail(tracker, problem)
        raise problem
    tracker.finish(follower.outcome)
    return Result(follower.outcome, str(tracker.run_dir))


def _fail(tracker: Tracker, problem: BaseException) -> None:
    """Alert people of the end of a run by an error, and record it."""
    said = str(problem)
    if isinstance(problem, DivergedError):  # its message begins with the step
        tracker.alert(AlertCause("diverged", said.partition(":")[0]), said)
    else:
        tracker.alert(AlertCause("failed", said), said)
    tracker.finish("failed", reason=said)


def _spent_before(
    submitted: float | None, spent: Mapping[str, float] | None
) -> tuple[dict[str, float], float]:
    """Part of the time since the user's command → seconds, and the time now."""
    now, known = time.time(), dict(spent or {})
    return {**known, "driver": now - (submitted or now) - sum(known.values())}, now


def _end_early(tracker: Tracker, watcher: Watcher | None) -> Result:
    """The result of a run that was saved and left early, by its watcher or by a signal."""
    if watcher is not None and watcher.wants_stop():
        tracker.finish("interrupted", reason=PAUSED)
        return Result("paused", str(tracker.run_dir))
    tracker.finish("interrupted", reason="interrupted from outside")
    raise KeyboardInterrupt


@contextmanager
def _evaluating(beside: EvaluationsBeside) -> Iterator[None]:
    """Have evaluations that are not done when the block ends end with it."""
    try:
        yield
    finally:
        beside.abandon()


def _await_evaluations(
    beside: EvaluationsBeside, follower: Follower, mailbox: ActorHandle, tracker: Tracker
) -> None:
    """Wait for the evaluations that are still due; the workers have released their devices.

    An interrupt ends the wait, and is told; the run itself is at its end.
    """
    beside.poll()
    if first := beside.count():
        tracker.note(f"training has ended; {first} evaluation{'s' * (first > 1)} to be made")
    asked_to_stop = threading.Event()
    with stop_signals(asked_to_stop):
        while left := beside.outstanding:
            if asked_to_stop.wait(POLL_SECONDS):
                tracker.note(f"interrupted: {left} not made; the same command makes them")
                break
            tracker.busy("evaluating checkpoints", 1 - left / max(first, left))
            follower.take_from(mailbox)
            beside.poll()
    beside.remove_left_over()


def _follow(
    checked: Checked,
    mailbox: ActorHandle,
    follower: Follower,
    group: _Group,
    beside: EvaluationsBeside,
    tracker: Tracker,
) -> MantaError | None:
    """Run the worker groups and pass their messages on; returns why they failed, if they did."""
    shards, stall = _ShardCheck(checked), StallWatch(checked.config.alerts.stall)
    group.start()
    shards.start()
    try:
        with stop_signals(group.asked_to_stop):
            while group.is_alive():
                group.join(POLL_SECONDS)
                shards.raise_if_damaged()
                follower.take_from(mailbox)
                beside.poll()
                _look_for_stall(stall, mailbox, tracker)
                if follower.wants_stop():
                    group.asked_to_stop.set()
                group.stop_if_asked(beside.out_of_patience)
    except BaseException:
        group.abandon()
        raise
    finally:
        release_all_of(group.owner)
    follower.take_from(mailbox)
    if (
        beside.out_of_patience
        and follower.outcome == "interrupted"
        and not group.asked_to_stop.is_set()
    ):
        follower.outcome = "stopped"
    if group.asked_to_stop.is_set() and follower.outcome is None:
        raise KeyboardInterrupt
    problem: ErrorReport | None = ray.get(mailbox.failure.remote())
    if problem is not None:
        return problem.error()
    return None if group.failure is None else TrainingError(group.failure)


def _look_for_stall(watch: StallWatch, mailbox: ActorHandle, tracker: Tracker) -> None:
    """Alert people if the run has made no step for as long as the config says."""
    if watch.limit is None:
        return
    told = watch.look(ray.get(mailbox.progress.remote()))
    if told is not None:
        tracker.note(told)
        tracker.alert(stalled(tracker), told)


class _ShardCheck(threading.Thread):
    """Compares the corpus's checksums with its manifest while the run starts and trains.

    Training reads shards by mmap, which can't notice a changed byte.
    """

    def __init__(self, checked: Checked):
        super().__init__(name="manta-shards", daemon=True)
        self._checked = checked
        self._problem: str | None = None

    def run(self) -> None:
        """Read all shards once, unless they are too large or come from a cache that checks them."""
        folder, manifest = self._checked.config.corpus, self._checked.manifest
        if "://" in folder or sum(shard.bytes for shard in manifest.shards) > CHECKED_BYTES:
            return
        try:
            check_shards(folder, manifest)
        except CorpusError as error:
            self._problem = str(error)

    def raise_if_damaged(self) -> None:
        """Raise if damage was found; call it now and then.

        Raises:
            TrainingError: naming the damaged shards.
        """
        if self._problem is not None:
            raise TrainingError(
                f"{self._problem}; or restore them, and the same command continues the run"
            )


class _Group(threading.Thread):
    """Runs Ray Train's blocking `fit` in a separate thread.

    The main thread stays free for messages and for Ctrl-C.
    """

    def __init__(self, assignment: Assignment, elasticity: Elasticity):
        super().__init__(name="manta-group", daemon=True)
        self.owner = elasticity.owner
        self._trainer = _trainer(assignment)
        self._trainer.elasticity = elasticity
        self._mailbox = assignment.mailbox
        self.failure: str | None = None
        self.asked_to_stop = threading.Event()
        self._told = False

    def run(self) -> None:
        """Block until the last group has ended."""
        try:
            self._trainer.fit()
        except Exception as error:
            self.failure = str(error)

    def stop_if_asked(self, out_of_patience: bool) -> None:
        """If a stop was asked for, save and end the run at the next step. Returns at once.

        Args:
            out_of_patience: whether results of evaluators ask for it.
        """
        asked = self.asked_to_stop.is_set()
        if self._told or not (asked or out_of_patience) or self._trainer.controller is None:
            return
        self._told = True
        message = "interrupted: saving a checkpoint; interrupt again to end the run at once"
        if not asked:
            message = "no better for as many evaluations as eval.patience says: saving and stopping"
        self._mailbox.put.remote(Note(message))
        self._trainer.controller.stop()

    def abandon(self) -> None:
        """End the workers and the controller; Ray can be shut down afterwards."""
        if self._trainer.controller is not None:
            self._trainer.controller.abandon()
        self.join(ABANDON_SECONDS)


def _trainer(assignment: Assignment) -> Any:
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig

    from manta.elastic.controller.train_controller import ElasticTrainer

    checked = assignment.checked
    return ElasticTrainer(
        work,
        train_loop_config={"assignment": assignment},
        # Only what Ray Train requires: `SlotController` decides how many workers there are, and
        # where.
        scaling_config=ScalingConfig(num_workers=checked.config.scaling.min),
        # For Ray Train's own files; Manta saves its checkpoints itself.
        run_config=RayRunConfig(
            name="ray",
            storage_path=str(checked.run_dir),
            # No limit: the mailbox ends a run that makes no progress.
            failure_config=FailureConfig(max_failures=-1),
        ),
    )


def open_worker_pool(resources: dict[str, float]) -> WarmWorkers | None:
    """Workers that several runs use in turn, so that only the first run waits for them.

    None if workers have accelerators: a process keeps the devices that it saw first.
    """
    from manta.elastic.controller.holdings import open_pool

    return None if gpus_of(resources) else open_pool(resources, runtime_env_of(resources))


def load_controller() -> None:
    """Import what the driver needs to train. Takes a second: run it while Ray starts."""
    importlib.import_module("manta.elastic.controller.train_controller")


def _elasticity(
    checked: Checked,
    totals: Totals,
    mailbox: ActorHandle,
    owner: str,
    share: WorkerShare | None,
    pool: WarmWorkers | None,
    begun: WarmWorkers | None,
) -> Elasticity:
    from manta.elastic.controller.holdings import Elasticity

    scaling, schedule = checked.config.scaling, checked.schedule
    return Elasticity(
        scaling=scaling,
        cost=checked.config.cost,
        spent=totals.cost or 0.0,
        hours=totals.wall_seconds / 3600,
        total_tokens=schedule.positions * schedule.seq_len,
        snapshots=checked.config.checkpoint.snapshot_every != 0 and hasattr(os, "memfd_create"),
        in_place=goes_on_in_place(checked.config),
        checked=ray.put(checked),
        warm_after=WARM_AFTER_SECONDS if scaling.spares is None else 0.0,
        owner=owner,
        pool=pool,
        begun=begun,
        share=share,
        mailbox=mailbox,
        runtime_env=runtime_env_of(scaling.resources_per_worker),
    )


def check_resources(config: RunConfig) -> None:
    """Refuse a run that needs more than a machine that can't grow has.

    Raises:
        RunError: naming what the machine has.
    """
    if may_grow():
        return
    have = ray.cluster_resources()
    wanted = config.scaling.resources_per_worker
    refuse_too_much(config, {name: have.get(name, 0) for name in wanted})
    check_evaluators_fit(config, {name: have.get(name, 0) for name in resources_of(config)})
