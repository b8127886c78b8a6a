"""Ray Train's controller with our decisions: where workers run, how many, and when to change.

Everything here that begins with an underscore in Ray is internal to Ray Train 2.60. It is
used in this module and in `group` only; tests/elastic/test_internals.py guards it.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import (
    NoopDecision,
    ResizeDecision,
    ScalingPolicy,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupContext
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from manta.elastic import nodes
from manta.elastic.autoscaler import Shortage, may_grow
from manta.elastic.group import DIED, Placing, SlotWorkerGroup, WorkerLost, start_worker
from manta.elastic.growth import Growth
from manta.elastic.keeper import Keepers
from manta.elastic.residents import settle
from manta.elastic.slots import Slot, Slots
from manta.elastic.spares import Spares
from manta.elastic.start import Regroup
from manta.elastic.watchdog import Watchdog
from manta.train.pause import Pause

# Ray Train's controller reads these when it is made.
CONTROLLER_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # it looks at its workers each 2 s by default
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # draining nodes are our policy's business
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",  # its files would be the driver's
}
# How long a group that has its minimum waits for slots that may come at once.
GRACE_SECONDS = 0.4
# How often the cluster is looked at while a group trains.
LOOK_SECONDS = 1.0
# How often the memory of snapshots is looked at.
WEIGH_SECONDS = 30.0
# What starting Ray Data's actors on the head takes, at most.
SETTLE_SECONDS = 30.0
# Until a restart has been measured.
RESTART_SECONDS = 5.0


@dataclass(frozen=True)
class Share:
    """What a run may have of a cluster that others use too, from an actor that gives each its own.

    The actor answers ``share_of(name, useful)`` with a number of workers.
    """

    arbiter: ActorHandle
    name: str

    def workers(self, useful: int) -> int:
        """How many workers the run may have now.

        Args:
            useful: more than these would be of no use to it.

        Raises:
            RayError: if the actor is gone.
        """
        found: int = ray.get(self.arbiter.share_of.remote(self.name, useful))
        return found


@dataclass(frozen=True)
class Elasticity:
    """What the controller must know of a run.

    Attributes:
        smallest: number of workers.
        largest: number of workers.
        resources: of one worker.
        micro_batch: most rows in a forward pass.
        total_tokens: of the run.
        node_stay: seconds that a node usually stays.
        rate: tokens a second of one worker, if it is not to be measured.
        settle: seconds that a group trains at least before it grows.
        hang: seconds without a step before the workers are replaced.
        snapshots: whether they are kept in memory.
        spares: warm workers on each node; as many as it has workers if None.
        warm_after: seconds of training before spares are started.
        owner: a name of its own for what the run holds in the cluster.
        pool: warm workers that outlive the run, for runs one after the other; else its own.
        begun: warm workers, or ones that are on the way, that are the run's own from now on.
        share: what it may have, if there are others beside it; else as much as `largest`.
        mailbox: the run's mailbox.
        runtime_env: of the workers.
    """

    smallest: int
    largest: int
    resources: dict[str, float]
    micro_batch: int
    total_tokens: int
    node_stay: float
    rate: float | None
    settle: float
    hang: float
    snapshots: bool
    spares: int | None
    warm_after: float
    owner: str
    pool: Spares | None
    begun: Spares | None
    share: Share | None
    mailbox: ActorHandle
    runtime_env: dict[str, Any]


def open_pool(resources: dict[str, float], runtime_env: dict[str, Any]) -> Spares:
    """Warm workers for runs with the same needs; empty at first."""
    return Spares(lambda node: start_worker(node, runtime_env, resources))


class ElasticTrainer(DataParallelTrainer):  # type: ignore[misc]
    """Ray Train's trainer with our controller in the place of its own."""

    elasticity: Elasticity
    controller: SlotController | None = None

    def _create_default_callbacks(self) -> list[Any]:
        """None: they set up what `SlotWorkerGroup` does itself."""
        return []

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        """Run the controller in this thread.

        Ray Train gives it an actor, on the driver's node: a process more to start, and to import
        Ray Train in, before the first worker is asked for.
        """
        policy = SlotPolicy(self.scaling_config, self.elasticity)
        os.environ.update(CONTROLLER_ENVIRONMENT)
        self.controller = SlotController(**{**controller_init_kwargs, "scaling_policy": policy})
        try:
            asyncio.run(self.controller.run())
            return self.controller.get_result()
        finally:
            self.controller.abandon()


class SlotPolicy(ScalingPolicy):  # type: ignore[misc]
    """How many workers, from the slots that are there. `stop` may be called from any thread."""

    def __init__(self, scaling_config: Any, elasticity: Elasticity):
        super().__init__(scaling_config)
        self.known = elasticity
        self._mail = elasticity.mailbox
        self._slots = Slots(elasticity.resources, elasticity.owner)
        self._spares = (
            elasticity.pool
            or elasticity.begun
            or open_pool(elasticity.resources, elasticity.runtime_env)
        )
        self._keepers = Keepers()
        self._group: SlotWorkerGroup | None = None
        self._stop = False
        self._looked = self._weighed = -math.inf
        self._shortage = Shortage(elasticity.smallest, elasticity.resources)
        self._settled: Any = None
        self._paused = 0
        self._refused: int | None = None
        self._groups = 0
        self._noticed: float | None = None
        self._restarts: list[float] = []
        self._largest = self._useful = elasticity.largest

    # ------------------------------------------------------- for the controller

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for slots. Ray Train's own policy would ask its autoscaling coordinator."""
        if may_grow():
            self._settled = settle()
        self._ask_share()
        self._slots.request(self._largest)

    async def before_controller_shutdown(self) -> None:
        """Give everything back."""
        self.release()

    def before_controller_abort(self) -> None:
        """Give everything back."""
        self.release()

    def release(self) -> None:
        """Give everything back."""
        if self.known.pool is None:
            self._spares.release()
        self._keepers.release()
        self._slots.release()

    def _get_num_workers_for_resource_request(self) -> int:
        return self.known.largest

    # ------------------------------------------------------------ without a group

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Take what is there now; wait only while it is less than the minimum."""
        if (reason := ray.get(self._mail.failure.remote())) is not None:
            raise RuntimeError(reason)
        if self._stop:
            raise RuntimeError("stopped while no worker group was there")
        slots = self._usable()
        if len(slots) < self.known.smallest:
            if (news := self._shortage.news(len(slots))) is not None:
                self._note(news)
            time.sleep(0.1)  # the controller would ask again without a pause
            return NoopDecision()
        return ResizeDecision(len(slots), self.known.resources)

    def _usable(self) -> list[Slot]:
        """Slots on nodes that are there and stay."""
        until = time.monotonic() + GRACE_SECONDS
        unusable = self._unusable()
        self._slots.refresh(unusable)
        self._keepers.forget(unusable)
        self._ask_share()
        self._slots.keep(self._slots.ready[: self._largest])
        self._slots.request(self._largest)
        while len(self._slots.ready) < self._largest and time.monotonic() < until:
            time.sleep(0.05)
            self._slots.refresh()
        return self._slots.ready

    def _ask_share(self) -> None:
        """How many workers the run may have may have changed."""
        if self.known.share is None:
            return
        with suppress(RayError):  # gone with the driver, and so are we
            may = min(self.known.share.workers(self._useful), self.known.largest)
            self._largest = max(may, self.known.smallest)

    def _unusable(self) -> set[str]:
        ours = {slot.node for slot in self._slots.ready} | set(self._keepers.handles)
        return nodes.lost(ours) | set(nodes.draining())

    def placing(self, slots: int, seconds: dict[str, float]) -> Placing:
        """What a group of that many workers starts with."""
        began = time.time()
        attempt, micro_batch = ray.get(self._mail.begin_attempt.remote())
        if (reason := ray.get(self._mail.failure.remote())) is not None:
            raise RuntimeError(reason)
        self._wait_until_settled()
        taken = self._slots.ready[:slots]
        self._keep_on(taken)
        return Placing(
            slots=taken,
            spares=self._spares,
            keepers=self._keepers.handles,
            attempt=attempt,
            micro_batch=micro_batch or self.known.micro_batch,
            first=self._groups == 0,
            seconds=seconds,
            began=began,
            hang_seconds=self.known.hang,
            recycle=self.known.pool is not None,
        )

    def _wait_until_settled(self) -> None:
        """Nobody reads before Ray Data's own actors are where they may stay."""
        if self._settled is not None:
            with suppress(RayError):  # the run can do without
                ray.get(self._settled, timeout=SETTLE_SECONDS)
            self._settled = None

    def _keep_on(self, slots: list[Slot]) -> None:
        """Have keepers of snapshots where workers are, or soon will be."""
        if self.known.snapshots:
            self._keepers.open({slot.node for slot in slots})

    # --------------------------------------------------------------- with a group

    def group_started(self, group: SlotWorkerGroup) -> None:
        """A group is on its way."""
        self._groups += 1
        self._group, self._paused, self._refused = group, 0, None
        self._useful = self.known.largest
        self._watchdog = Watchdog(self.known.hang, group.placing.attempt)

    def group_ended(self, noticed: float) -> None:
        """The group is gone; what follows until the next one trains is a restart."""
        self._group, self._noticed = None, noticed

    def stop(self) -> None:
        """End the run at a step boundary; the controller's thread sees to it."""
        self._stop = True

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> Any:
        """Never a resize from here: workers leave by themselves, at a step boundary."""
        now = time.monotonic()
        if self._stop:
            self._ask_pause(Pause.STOP)
        if self._group is not None and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look(self._group)
        return NoopDecision()

    def _look(self, group: SlotWorkerGroup) -> None:
        progress = ray.get(self._mail.progress.remote())
        if self._watchdog.barks(progress):
            group.declare_lost(self._watchdog.culprits(group))
            return
        self._slots.refresh()
        if self._paused:
            return
        leaving = nodes.leaving(slot.node for slot in self._slots.ready)
        ours = {slot.node for slot in group.placing.slots}
        if going := {node: at for node, at in leaving.items() if node in ours}:
            self._leave(going)
            return
        if self._exceeds_share(group):
            return
        if progress.steps and progress.attempt == group.placing.attempt:
            if self._noticed is not None:
                self._restarts.append(progress.first_step - self._noticed)
                self._noticed = None
            self._keep_on(self._slots.ready)
            self._weigh_snapshots()
            self._warm_up(progress.seconds)
            staying = [slot for slot in self._slots.ready if slot.node not in leaving]
            self._consider_growth(group, progress, staying)

    def _exceeds_share(self, group: SlotWorkerGroup) -> bool:
        """Give back, or ask for, what the run's share says; whether the group has to shrink."""
        before = self._largest
        self._ask_share()
        if self._largest == before:
            return False
        workers = len(group.placing.slots)
        if self._largest < workers:
            self._note(f"{workers} → {self._largest} workers: others need the rest")
            self._ask_pause(Pause.REGROUP)
            return True
        others = [slot for slot in self._slots.ready if slot not in group.placing.slots]
        self._slots.keep([*group.placing.slots, *others[: self._largest - workers]])
        self._slots.request(self._largest)
        return False

    def _weigh_snapshots(self) -> None:
        """Tell, now and then, how much memory the snapshots take."""
        if time.monotonic() - self._weighed >= WEIGH_SECONDS:
            self._weighed = time.monotonic()
            self._mail.put.remote("snapshot_memory", {"bytes": self._keepers.used()})

    def _leave(self, going: dict[str, float | None]) -> None:
        for node, deadline in going.items():
            when = "" if deadline is None else f" in {max(0.0, deadline - time.time()):.0f} s"
            self._note(f"node {node[:8]} goes away{when}: leaving it at the next step")
        self._ask_pause(Pause.LEAVE)

    def _warm_up(self, running: float) -> None:
        """Have spares where a group may need them next."""
        if running >= self.known.warm_after:
            self._spares.fill(self._spares_for(self._slots.ready))

    def _spares_for(self, slots: list[Slot]) -> Counter[str]:
        """How many spares a group in these slots is to have on each node."""
        places = Counter(slot.node for slot in slots)
        if self.known.spares is None:
            return places
        return Counter({node: min(count, self.known.spares) for node, count in places.items()})

    def _consider_growth(self, group: SlotWorkerGroup, progress: Any, possible: list[Slot]) -> None:
        workers = len(group.placing.slots)
        if not progress.rate or self.known.largest <= workers:
            return
        growth = Growth(
            workers=workers,
            possible=len(possible),
            rate=self.known.rate or progress.rate / workers,
            remaining=self.known.total_tokens - progress.tokens,
            stay=self.known.node_stay,
            restart=max(self._restarts[-3:], default=RESTART_SECONDS),
            running=progress.seconds,
            settle=self.known.settle,
        )
        if len(possible) > workers:
            self._weigh(growth, possible)
        if not self._paused:
            self._ask_while_useful(group, growth)

    def _ask_while_useful(self, group: SlotWorkerGroup, growth: Growth) -> None:
        """Want no nodes, and hold none, that come too late for the run to gain by them."""
        most = replace(growth, possible=self.known.largest)
        if growth.running < growth.settle or most.worthwhile:
            self._useful = self.known.largest
            self._slots.request(self._largest)
            return
        self._useful = growth.workers
        self._slots.keep(group.placing.slots)
        self._slots.request(growth.workers)
        # The group's own keepers may hold snapshots in nodes without a slot.
        needed = {slot.node for slot in group.placing.slots} | group.placing.keepers.keys()
        self._keepers.forget(self._keepers.handles.keys() - needed)

    def _weigh(self, growth: Growth, possible: list[Slot]) -> None:
        if growth.worthwhile and not self._spares.suffice(self._spares_for(possible)):
            return
        self._decide(growth)

    def _decide(self, growth: Growth) -> None:
        if growth.worthwhile:
            self._note(growth.explained())
            self._ask_pause(Pause.REGROUP)
        elif growth.running >= growth.settle and self._refused != growth.possible:
            self._refused = growth.possible
            self._note(growth.explained())

    def _ask_pause(self, pause: int) -> None:
        if self._group is not None and pause > self._paused:
            self._paused = pause
            self._group.ask_pause(int(pause))

    def _note(self, message: str) -> None:
        self._mail.put.remote("note", {"message": message})


class SlotController(TrainController):  # type: ignore[misc]
    """Ray Train's control loop, with groups that are killed at once and started in slots."""

    _scaling_policy: SlotPolicy
    _worker_group: SlotWorkerGroup | None
    # Parts of the restart that is going on, in seconds, and since when the last one runs.
    _down: dict[str, float] | None = None

    async def _run_control_loop_iteration(self) -> None:
        """Ray Train's, and a moment for other calls: while a run waits for room it has none."""
        await super()._run_control_loop_iteration()
        await asyncio.sleep(0)

    def _start_worker_group(self, num_workers: int, resources_per_worker: dict[str, Any]) -> None:
        policy = self._scaling_policy
        seconds = self._lap() if self._down else {}
        context = WorkerGroupContext(
            run_attempt_id=self._get_run_attempt_id(),
            train_fn_ref=self._train_fn_ref,
            num_workers=num_workers,
            resources_per_worker=resources_per_worker,
        )
        # No callbacks: they serve `ray.train.report`, which Manta does not use.
        group = SlotWorkerGroup(self._train_run_context, context, [])
        group.placing = policy.placing(num_workers, seconds)
        group._start()
        self._worker_group = group
        policy.group_started(group)

    def _lap(self) -> dict[str, float]:
        """Parts of the restart until now, in seconds."""
        assert self._down is not None
        parts, self._down = dict(self._down), None
        at = parts.pop("at")
        return {**parts, "place": time.time() - at}

    def _execute_failure_decision(
        self, failure_decision: Any, training_failed_error: Any, **more: Any
    ) -> Any:
        """Tell the driver, and kill what is left of the group before anything else."""
        noticed = time.time()
        policy = self._scaling_policy
        self._tell(training_failed_error)
        if self._worker_group is not None:
            self._worker_group.end()
            self._worker_group = None
        policy.group_ended(noticed)
        self._down = {"noticed": noticed, "stop": time.time() - noticed, "at": time.time()}
        return super()._execute_failure_decision(failure_decision, training_failed_error, **more)

    def _tell(self, error: Any) -> None:
        """Let the driver know why the group ended."""
        failures = getattr(error, "worker_failures", None) or {0: error}
        asked = all(isinstance(_cause(failure), Regroup) for failure in failures.values())
        reasons = {rank: _in_a_line(_cause(failure)) for rank, failure in failures.items()}
        # A worker that was lost makes the others fail: it is the one to name.
        lost = {r: why for r, why in reasons.items() if _is_loss(failures[r])}
        if not lost and not asked and self._worker_group is not None:
            lost = self._worker_group.find_lost()
        content = {"reasons": lost or reasons, "asked": asked}
        self._scaling_policy.known.mailbox.put.remote("ended", content)

    def stop(self) -> None:
        """End the run at a step boundary; workers make a checkpoint first. From any thread."""
        self._scaling_policy.stop()

    def abandon(self) -> None:
        """End what is left of the run, and the control loop with it. From any thread."""
        self._scaling_policy.stop()
        if self._worker_group is not None:
            self._worker_group.end()
        self._scaling_policy.release()


def _cause(failure: BaseException) -> BaseException:
    """What a worker raised, without Ray Train's wrapping."""
    inner = getattr(failure, "_base_exc", None) or getattr(failure, "health_check_failure", None)
    return inner if isinstance(inner, BaseException) else failure


def _is_loss(failure: BaseException) -> bool:
    return isinstance(_cause(failure), (RayError, WorkerLost))


def _in_a_line(cause: BaseException) -> str:
    """Why a worker ended, without the paragraphs that Ray adds."""
    if isinstance(cause, ActorUnavailableError):
        return "its process can't be reached"
    if isinstance(cause, ActorDiedError):
        return DIED
    return (str(cause).strip().splitlines() or [type(cause).__name__])[-1].strip()
