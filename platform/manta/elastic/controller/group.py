"""A worker group of Ray Train that starts in held slots, from warm processes.

Built on internals of Ray Train 2.60, as is `train_controller`; tests/elastic/test_internals.py
lists them, and fails with their names when a new version changes them.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.context import DistributedContext
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    PlacementGroupHandle,
)
from ray.train.v2._internal.execution.worker_group.poll import WorkerStatus
from ray.train.v2._internal.execution.worker_group.state import WorkerGroupStateBuilder
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker, Worker
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup

from manta.config.scaling import gpus_of
from manta.elastic.cluster_state import actor_replies, nodes
from manta.elastic.controller.slots import Slot
from manta.elastic.controller.warm_workers import WarmWorkers
from manta.elastic.messages import group_start
from manta.elastic.messages.group_start import Start
from manta.elastic.worker import preload, worker_calls

# Seconds after which a start is given up: imports from a slow shared disk may take minutes.
START_SECONDS = 600.0
# Seconds to wait for a reply: a running process that is not stuck answers in milliseconds.
ANSWER_SECONDS = 10.0
# Seconds without a reply to a poll after which the worker's node is probed.
SILENT_SECONDS = 1.0
# Seconds to wait for replies that show which workers of a failed group died.
LAST_WORDS_SECONDS = 0.2
DIED = "its process died"


class WorkerLost(RuntimeError):
    """A worker died or hangs; the message says how that was noticed."""


@dataclass
class Placing:
    """The slots, processes and limits with which a group starts.

    Attributes:
        slots: one slot for each worker, in the order of ranks.
        spares: the warm workers that the group takes its processes from.
        keepers: node id → the actor that keeps snapshots there.
        attempt: the group's number in the run.
        micro_batch: most rows that were found to fit in a forward pass; None: as configured.
        first: whether the group is the first one of its driver.
        seconds: part of the restart before this start → seconds it took.
        began: time at which the start began, in seconds since the epoch.
        hang_seconds: seconds without a reply after which a worker counts as stuck.
        recycle: whether workers that finished become warm workers for another run.
        survivors: slot id → the worker there that still has the run from the group before.
        hourly: price of the slots' devices for an hour; None if they have no price.
    """

    slots: list[Slot]
    spares: WarmWorkers
    keepers: dict[str, ActorHandle]
    attempt: int
    micro_batch: int | None
    first: bool
    seconds: dict[str, float]
    began: float
    hang_seconds: float
    recycle: bool
    survivors: dict[str, ActorHandle]
    hourly: float | None


class _HeldElsewhere(PlacementGroupHandle):  # type: ignore[misc]
    """A placement group handle that does nothing: slots belong to the run, not to a group."""

    placement_group = None

    def ready(self) -> Any:
        raise NotImplementedError("slots are ready before a group is started")

    def wait(self, timeout_seconds: float = 30) -> bool:
        return True

    def shutdown(self) -> None:
        pass


class SlotWorkerGroup(WorkerGroup):  # type: ignore[misc]
    """A worker group in held slots: one attempt at the run."""

    placing: Placing
    lost: dict[int, str]
    hung: bool = False
    _actors: list[ActorHandle]

    def _start_impl(self, worker_group_state_builder: WorkerGroupStateBuilder) -> None:
        """Start the workers; if one dies meanwhile, raise what makes Ray Train try again."""
        self.lost, self._actors = {}, []
        try:
            workers = self._adopt()
            self._instruct(workers)
            self._worker_group_state = (
                worker_group_state_builder.with_placement_group_handle(_HeldElsewhere())
                # required, but unused: Manta does not report through it
                .with_sync_actor(workers[0].actor)
                .with_workers(workers)
                .build()
            )
            train_fn = self._worker_group_context.train_fn_ref
            self._get([worker.actor.run_train_fn.remote(train_fn) for worker in workers])
        except RayError as error:
            raise WorkerGroupStartupFailedError(
                f"a worker died while its group started: {error}"
            ) from error

    def _adopt(self) -> list[Worker]:
        slots, survivors = self.placing.slots, self.placing.survivors
        vacant = [slot.node for slot in slots if slot.id not in survivors]
        warm = self.placing.spares.suffice(Counter(vacant))
        taken = iter(self.placing.spares.take(vacant))
        self._actors = [survivors.get(slot.id) or next(taken) for slot in slots]
        asked = [actor.get_metadata.remote() for actor in self._actors]
        metadata = self._get(asked, ANSWER_SECONDS if warm else START_SECONDS)
        resources = self._worker_group_context.resources_per_worker
        self._replica_groups: list[Any] = []
        workers = [Worker(a, m, resources) for a, m in zip(self._actors, metadata, strict=True)]
        _number(workers)
        return workers

    def _instruct(self, workers: list[Worker]) -> None:
        """Give each worker Ray Train's context and Manta's `Start`."""
        port = self._get([workers[0].actor.execute.remote(group_start.free_port)])[0]
        address = (workers[0].metadata.node_ip, port)
        contexts = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=None,
                storage_context=self._storage_context,
                worker_callbacks=[],
                controller_actor=None,  # only `ray.train.report` uses it
            )
            for worker in workers
        ]
        begun = [
            worker.actor.execute.remote(group_start.begin, self._start_of(worker, slot, address))
            for worker, slot in zip(workers, self.placing.slots, strict=True)
        ]
        self._get([*contexts, *begun])

    def _get(self, references: list[Any], seconds: float = ANSWER_SECONDS) -> list[Any]:
        """All replies, unless a node that must reply is lost.

        Raises:
            RayError: if a worker is lost or takes too long.
        """
        deadline = time.monotonic() + seconds
        places = {slot.node for slot in self.placing.slots}
        while len(ray.wait(references, num_returns=len(references), timeout=1.0)[0]) < len(
            references
        ):
            if gone := nodes.lost(places):
                raise RayError(f"node {min(gone)[:8]} went away")
            if time.monotonic() > deadline:
                raise RayError(f"no answer for {seconds:.0f} s")
        found: list[Any] = ray.get(references)
        return found

    def _start_of(self, worker: Worker, slot: Slot, address: tuple[str, int]) -> Start:
        placing = self.placing
        return Start(
            attempt=placing.attempt,
            node=slot.node,
            keepers=placing.keepers,
            micro_batch=placing.micro_batch,
            first=placing.first,
            joins=bool(placing.survivors),
            seconds={**placing.seconds, "processes": time.time() - placing.began},
            began=time.time(),
            hourly=placing.hourly,
            environment=self._environment(worker.distributed_context, slot, address),
        )

    def _environment(
        self, context: DistributedContext, slot: Slot, address: tuple[str, int]
    ) -> dict[str, str]:
        """Environment variables for torch.distributed, CUDA and Accelerate, as from torchrun."""
        found = {
            "MASTER_ADDR": address[0],
            "MASTER_PORT": str(address[1]),
            "RANK": str(context.world_rank),
            "WORLD_SIZE": str(context.world_size),
            "LOCAL_RANK": str(context.local_rank),
            "LOCAL_WORLD_SIZE": str(context.local_world_size),
            "NODE_RANK": str(context.node_rank),
        }
        if slot.devices:
            # Workers of a node see each other's devices, so that NCCL can copy directly between
            # them.
            shared = sorted(
                {d for s in self.placing.slots if s.node == slot.node for d in s.devices}
            )
            found["CUDA_VISIBLE_DEVICES"] = ",".join(shared)
            found["LOCAL_RANK"] = str(shared.index(slot.devices[0]))
        return found

    # ------------------------------------------------------------ while the group runs

    def ask_pause(self, pause: int) -> None:
        """Ask all workers to leave their loops at a step boundary."""
        for worker in self.get_workers():
            worker.actor.execute.remote(group_start.ask_pause, pause)

    def declare_lost(self, ranks: dict[int, str]) -> None:
        """Mark ranks as lost, as the group hangs, each with the reason; the next poll tells."""
        self.hung = True
        self.lost.update(ranks)

    def _poll_workers_and_collect_errors(self, timeout: float | None) -> list[WorkerStatus]:
        """Ray Train's poll, which alone would wait long for a silent worker."""
        statuses: list[WorkerStatus] = super()._poll_workers_and_collect_errors(timeout)
        self._look_at_silent()
        for rank, why in self.lost.items():
            statuses[rank] = WorkerStatus(running=False, error=WorkerLost(why))
        return statuses

    def _look_at_silent(self) -> None:
        """Find silent workers that are lost or stuck, not just busy."""
        now = time.monotonic()
        silent = {
            rank: now - poll.start_time
            for rank, poll in self._world_rank_to_ongoing_poll.items()
            if now - poll.start_time > SILENT_SECONDS and rank not in self.lost
        }
        if not silent:
            return
        gone = nodes.lost({self.placing.slots[rank].node for rank in silent})
        for rank, seconds in silent.items():
            node = self.placing.slots[rank].node
            if node in gone:
                self.lost[rank] = _gone(node)
            elif seconds > self.placing.hang_seconds:
                self.hung = True
                self.lost[rank] = f"its process has not answered for {seconds:.0f} s"

    def find_lost(self) -> dict[int, str]:
        """Ask all workers again which are lost: errors of others may have arrived first."""
        actors = enumerate(self._actors)
        asked = {actor.execute.remote(int): rank for rank, actor in actors}
        dead = dict.fromkeys(actor_replies.dead(asked, LAST_WORDS_SECONDS), DIED)
        gone = nodes.lost({slot.node for slot in self.placing.slots})
        slots = enumerate(self.placing.slots)
        left = {rank: _gone(slot.node) for rank, slot in slots if slot.node in gone}
        return {**dead, **left}

    # -------------------------------------------------------------- the group's end

    def part(self, lost: Collection[int], seconds: float) -> dict[str, ActorHandle]:
        """End the group, but for workers that still have the run's state in their processes.

        Args:
            lost: ranks whose processes are gone, or are to be ended at once.
            seconds: how long the others may take to leave, which they do at their next exchange.

        Returns:
            Slot id → the worker there that can go on in another group.
        """
        mine = {self.placing.slots[rank].node for rank in lost}
        gone = nodes.addresses_of(nodes.lost(mine)) if mine else set()
        workers = dict(enumerate(zip(self._actors, self.placing.slots, strict=False)))
        for rank in lost:
            ray.kill(workers.pop(rank)[0])
        left = {slot.id: actor for actor, slot in workers.values()}
        asked = {
            actor.execute.remote(worker_calls.stand_by, seconds, gone): slot
            for slot, actor in left.items()
        }
        steps = actor_replies.replies(asked, seconds + 1.0)
        survivors = {slot: actor for slot, actor in left.items() if steps.get(slot) is not None}
        for slot in left.keys() - survivors.keys():
            ray.kill(left[slot])
        self._clear_state()
        return survivors

    def end(self) -> None:
        """Kill all workers at once, also those that wait in a collective."""
        for actor in self._actors:
            ray.kill(actor)
        self._clear_state()

    def shutdown(self) -> None:
        """Called by Ray Train when the group has finished."""
        if self.placing.recycle and not self.lost:
            for actor, slot in zip(self._actors, self.placing.slots, strict=True):
                self.placing.spares.give(
                    slot.node, actor, actor.execute.remote(worker_calls.retire)
                )
            self._actors = []
        self.end()

    def abort(self) -> None:
        """Called by Ray Train when the controller is told to stop."""
        self.end()


def _gone(node: str) -> str:
    return f"its node {node[:8]} is gone"


def start_worker(
    node: str, runtime_env: dict[str, Any], resources: dict[str, float]
) -> tuple[ActorHandle, Any]:
    """Start a worker process that imports; returns it with a reference that is ready then."""
    actor = open_worker(node, runtime_env, resources)
    return actor, actor.execute.remote(worker_calls.warm)


def open_worker(node: str, runtime_env: dict[str, Any], resources: dict[str, float]) -> ActorHandle:
    """Start a worker process on a node, without resources: its slot holds them already."""
    python = preload.python()
    if python is not None and gpus_of(resources):
        variables = {**runtime_env.get("env_vars", {}), preload.VARIABLE: ""}
        runtime_env = {**runtime_env, "env_vars": variables}
    elif python is not None and nodes.is_here(node):
        runtime_env = {**runtime_env, "py_executable": python}
    options = {
        "num_cpus": 0,
        "label_selector": {"ray.io/node-id": node},
        # Not the driver's strategy: a sweep's leg runs in a placement group of its own node.
        "scheduling_strategy": "DEFAULT",
        "runtime_env": runtime_env,
    }
    return ray.remote(RayTrainWorker).options(**options).remote()


def _number(workers: list[Worker]) -> None:
    """Number the ranks in the order of the workers, which are sorted by node."""
    by_node: dict[str, list[Worker]] = defaultdict(list)
    for worker in workers:
        by_node[worker.metadata.node_id].append(worker)
    order = list(by_node)
    for rank, worker in enumerate(workers):
        peers = by_node[worker.metadata.node_id]
        worker.distributed_context = DistributedContext(
            world_rank=rank,
            world_size=len(workers),
            local_rank=peers.index(worker),
            local_world_size=len(peers),
            node_rank=order.index(worker.metadata.node_id),
        )
