"""Ray Train's controller with Manta's policy, and groups that are killed at once.

Everything here that begins with an underscore in Ray is internal to Ray Train 2.60. It is
used in this module, in `policy` and in `group` only; tests/elastic/test_internals.py guards it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection
from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroupContext
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from manta.elastic.controller.group import DIED, SlotWorkerGroup, WorkerLost
from manta.elastic.controller.holdings import Elasticity
from manta.elastic.controller.policy import SlotPolicy
from manta.elastic.messages.events import GroupEnded
from manta.elastic.messages.group_start import Regroup, Severed

# Environment variables that Ray Train's controller reads when it is created.
CONTROLLER_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # Manta's policy handles draining nodes
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",  # its log files would be the driver's
}


# Seconds between two looks at the workers of a group: a look asks each of them, which takes a
# millisecond at both ends. Ray Train looks each two seconds.
LOOK_SECONDS_OF_A_WORKER, SHORTEST_LOOK, LONGEST_LOOK = 0.05, 0.1, 0.5


def look_seconds(workers: int) -> float:
    """Seconds between two looks at a group of so many workers."""
    return min(max(SHORTEST_LOOK, LOOK_SECONDS_OF_A_WORKER * workers), LONGEST_LOOK)


class ElasticTrainer(DataParallelTrainer):  # type: ignore[misc]
    """Ray Train's trainer with `SlotController` instead of its own controller."""

    elasticity: Elasticity
    controller: SlotController | None = None

    def _create_default_callbacks(self) -> list[Any]:
        """No callbacks: `SlotWorkerGroup` does what they set up."""
        return []

    def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
        """Run the controller in this thread.

        Ray Train runs it in an actor: one more process to start, which imports Ray Train before
        the first worker is requested.
        """
        policy = SlotPolicy(self.scaling_config, self.elasticity)
        os.environ.update(CONTROLLER_ENVIRONMENT)
        self.controller = SlotController(**{**controller_init_kwargs, "scaling_policy": policy})
        try:
            asyncio.run(self.controller.run())
            return self.controller.get_result()
        finally:
            self.controller.abandon()


class SlotController(TrainController):  # type: ignore[misc]
    """Ray Train's control loop, with groups that are killed at once and started in slots."""

    _scaling_policy: SlotPolicy
    _worker_group: SlotWorkerGroup | None
    # Part of the current restart → seconds; and the time at which its last part began.
    _down: dict[str, float] | None = None

    async def _run_control_loop_iteration(self) -> None:
        """Ray Train's iteration, then a yield: a waiting run would block other calls."""
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
        # No callbacks, which only serve `ray.train.report`; Manta does not use that.
        group = SlotWorkerGroup(self._train_run_context, context, [])
        group.placing = policy.placing(seconds)
        self._health_check_interval_s = look_seconds(num_workers)
        self._worker_group = group
        group._start()
        policy.group_started(group)

    def _lap(self) -> dict[str, float]:
        """Part of the restart until now → seconds."""
        assert self._down is not None
        parts, self._down = dict(self._down), None
        at = parts.pop("at")
        return {**parts, "place": time.time() - at}

    def _execute_failure_decision(
        self, failure_decision: Any, training_failed_error: Any, **more: Any
    ) -> Any:
        """Tell the driver, and have the rest of the group leave it before anything else."""
        noticed = time.time()
        policy, group = self._scaling_policy, self._worker_group
        lost = self._tell(training_failed_error)
        self._worker_group = None
        policy.group_ended(noticed, {} if group is None else self._survivors(group, lost))
        self._down = {"noticed": noticed, "stop": time.time() - noticed, "at": time.time()}
        return super()._execute_failure_decision(failure_decision, training_failed_error, **more)

    def _survivors(self, group: SlotWorkerGroup, lost: Collection[int]) -> dict[str, ActorHandle]:
        """Slot id → the worker there that can go on in another group; all others are ended.

        At once where none can go on, as on GPUs: some may wait in an exchange that never ends.
        """
        policy = self._scaling_policy
        if policy.known.in_place:
            return group.part(lost, policy.patience())
        group.end()
        return {}

    def _tell(self, error: Any) -> Collection[int]:
        """Tell the driver why the group ended; returns the ranks that are lost."""
        failures = getattr(error, "worker_failures", None) or {0: error}
        asked = all(_was_asked(_cause(failure)) for failure in failures.values())
        reasons = {rank: _in_a_line(_cause(failure)) for rank, failure in failures.items()}
        # A lost worker makes the others fail, so name the lost one.
        lost = {r: why for r, why in reasons.items() if _is_loss(failures[r])}
        if not lost and not asked and self._worker_group is not None:
            lost = self._worker_group.find_lost()
        hung = self._worker_group is not None and self._worker_group.hung
        event = GroupEnded(lost or reasons, asked, hung)
        self._scaling_policy.known.mailbox.put.remote(event)
        return lost

    def stop(self) -> None:
        """End the run at a step boundary, after a checkpoint. Thread-safe."""
        self._scaling_policy.stop()

    def abandon(self) -> None:
        """End the run's group and the control loop now. Thread-safe."""
        self._scaling_policy.stop()
        if self._worker_group is not None:
            self._worker_group.end()
        self._scaling_policy.release()


def _cause(failure: BaseException) -> BaseException:
    """The exception that a worker raised, without Ray Train's wrappers."""
    inner = getattr(failure, "_base_exc", None) or getattr(failure, "health_check_failure", None)
    return inner if isinstance(inner, BaseException) else failure


def _was_asked(cause: BaseException) -> bool:
    """Whether a worker left because it was asked to, not because another one is gone."""
    return isinstance(cause, Regroup) and not isinstance(cause, Severed)


def _is_loss(failure: BaseException) -> bool:
    return isinstance(_cause(failure), (RayError, WorkerLost))


def _in_a_line(cause: BaseException) -> str:
    """Why a worker ended, in one line, without the paragraphs that Ray adds."""
    if isinstance(cause, ActorUnavailableError):
        return "its process can't be reached"
    if isinstance(cause, ActorDiedError):
        return DIED
    return (str(cause).strip().splitlines() or [type(cause).__name__])[-1].strip()
