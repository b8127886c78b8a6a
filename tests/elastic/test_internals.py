"""What Manta uses of Ray Train's inside, named: a new version that changes it fails here.

The lock file pins Ray. If this fails after an upgrade, read the new sources of what is named
below before changing `train_controller.py`, `policy.py` and `group.py` in `elastic/controller/`.
"""

from __future__ import annotations

import inspect
from dataclasses import fields

import ray
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2._internal.execution.context import (
    DistributedContext,
    ExecutionContext,
    get_train_context,
)
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import ScalingPolicy
from ray.train.v2._internal.execution.worker_group.poll import PollTask, WorkerStatus
from ray.train.v2._internal.execution.worker_group.state import WorkerGroupContext
from ray.train.v2._internal.execution.worker_group.thread_runner import ThreadRunner
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker, Worker
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from manta.elastic.cluster_state.autoscaler import may_grow, outlook
from manta.elastic.controller.group import SlotWorkerGroup
from manta.elastic.controller.policy import SlotPolicy
from manta.elastic.controller.train_controller import ElasticTrainer, SlotController


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_the_version_is_the_one_that_was_read() -> None:
    assert ray.__version__.startswith("2.60."), "read the sources named in this file again"


def test_what_is_overridden_is_still_called() -> None:
    """Each override replaces a method that Ray Train's own code calls by that name."""
    overridden = {
        SlotController: (
            TrainController,
            [
                "_start_worker_group",
                "_execute_failure_decision",
                "_run_control_loop_iteration",
            ],
        ),
        SlotWorkerGroup: (
            WorkerGroup,
            ["_start_impl", "_poll_workers_and_collect_errors", "shutdown", "abort"],
        ),
        SlotPolicy: (
            ScalingPolicy,
            [
                "make_decision_for_non_running_worker_group",
                "make_decision_for_running_worker_group",
                "after_controller_start",
                "before_controller_shutdown",
            ],
        ),
        ElasticTrainer: (
            DataParallelTrainer,
            ["_initialize_and_run_controller", "_create_default_callbacks"],
        ),
    }
    for ours, (theirs, names) in overridden.items():
        source = inspect.getsource(inspect.getmodule(theirs)) + inspect.getsource(TrainController)
        for name in names:
            assert name in vars(theirs), f"{theirs.__name__}.{name} is gone"
            assert name in vars(ours)
            assert source.count(name) >= 2, f"{name} is defined, but no longer called"


def test_signatures_are_those_that_are_called_or_overridden() -> None:
    assert parameters(TrainController._start_worker_group)[1:] == [
        "num_workers",
        "resources_per_worker",
    ]
    assert parameters(TrainController._execute_failure_decision)[1:3] == [
        "failure_decision",
        "training_failed_error",
    ]
    assert parameters(WorkerGroup._start_impl) == ["self", "worker_group_state_builder"]
    assert parameters(WorkerGroup.__init__)[1:] == [
        "train_run_context",
        "worker_group_context",
        "callbacks",
    ]
    wanted = {
        "train_run_context",
        "distributed_context",
        "synchronization_actor",
        "storage_context",
        "worker_callbacks",
        "controller_actor",
    }
    needed = [
        name
        for name, parameter in inspect.signature(
            RayTrainWorker.init_train_context
        ).parameters.items()
        if parameter.default is parameter.empty and name != "self"
    ]
    assert set(needed) == wanted
    for method in ("execute", "run_train_fn", "get_metadata", "poll_status"):
        assert hasattr(RayTrainWorker, method)


def test_records_have_the_fields_that_are_filled_in_or_read() -> None:
    def names(record: type) -> set[str]:
        return {field.name for field in fields(record)}

    assert {"run_attempt_id", "train_fn_ref", "num_workers", "resources_per_worker"} <= names(
        WorkerGroupContext
    )
    assert {"world_rank", "world_size", "local_rank", "local_world_size", "node_rank"} == names(
        DistributedContext
    )
    assert {"actor", "metadata", "resources", "distributed_context"} <= names(Worker)
    assert {"running", "error"} <= names(WorkerStatus)
    assert {"start_time", "task"} == names(PollTask)
    assert "training_thread_runner" in names(ExecutionContext)
    assert hasattr(ThreadRunner, "is_running")
    assert callable(get_train_context)
    assert inspect.getsource(TrainController).count("_health_check_interval_s") >= 2
    assert "_base_exc" in inspect.getsource(UserExceptionWithTraceback)
    assert "_world_rank_to_ongoing_poll" in inspect.getsource(WorkerGroup)


def test_the_state_of_the_cluster_is_asked_as_before() -> None:
    assert parameters(ray._private.state.GlobalState.get_draining_nodes) == ["self"]


def test_the_autoscaler_says_what_is_read_of_it() -> None:
    """Protobuf would give an empty field for one that was renamed in a repeated message."""
    reply = GetClusterStatusReply.DESCRIPTOR
    state = reply.fields_by_name["autoscaling_state"].message_type.fields_by_name
    read = {
        "pending_instance_requests": {"ray_node_type_name", "count"},
        "pending_instances": {"ray_node_type_name"},
        "failed_instance_requests": {"ray_node_type_name", "reason", "failed_ts"},
        "infeasible_gang_resource_requests": {"requests"},
    }
    assert "autoscaler_state_version" in state
    for field, inner in read.items():
        assert inner <= set(state[field].message_type.fields_by_name), field
    group = state["infeasible_gang_resource_requests"].message_type
    bundle = group.fields_by_name["requests"].message_type
    assert "resources_bundle" in bundle.fields_by_name


def test_a_machine_by_itself_has_no_autoscaler(ray_local: None) -> None:
    assert outlook({"CPU": 1.0}) is None
    assert not may_grow()
