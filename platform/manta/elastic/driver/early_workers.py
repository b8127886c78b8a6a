"""Workers that begin to import before the run is checked to its end.

Where there is room for them they can start at once; they hold nothing of the cluster until the
run is found sound. One of them tries the model, if that wasn't done before Ray was started
(`model_trial`): it needs Torch and Transformers all the same, and the driver is spared importing
them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from manta.config.errors import ErrorReport
from manta.elastic.checks.preflight import Checked, check_model
from manta.elastic.cluster_state import nodes
from manta.elastic.cluster_state.demand import bundle_of
from manta.elastic.controller.group import open_worker
from manta.elastic.controller.policy import open_pool
from manta.elastic.controller.warm_workers import Spares
from manta.elastic.driver.trainer import check_resources
from manta.elastic.worker import worker_calls
from manta.elastic.worker.environment import runtime_env_of
from manta.show.wandb.uploader import check_wandb

# A worker on a node that went at this moment would be waited for without end.
ANSWER_SECONDS = 120.0


def begin_workers(checked: Checked) -> tuple[Checked, Spares]:
    """Start the workers of a run where there is room, and check its model and W&B meanwhile.

    Returns:
        The run with what is known of its model, and the workers, for `trainer.train`. These may
        still be importing, and are none on a cluster that has no room now.

    Raises:
        RunError: if a machine that can't grow has not what the run needs.
        ConfigError: naming what is wrong and what to do.
    """
    check_resources(checked.config)
    scaling = checked.config.scaling
    resources = dict(scaling.resources_per_worker)
    environment = runtime_env_of(resources)
    workers = open_pool(resources, environment)
    room = nodes.free_for(bundle_of(resources), scaling.upper)
    if not room:
        return check_model(checked), workers
    node = next(iter(room))
    first = open_worker(node, environment, resources)
    model = None
    if checked.tried is None:
        # Before its other imports: what the driver then has left to do goes on beside them.
        model = first.execute.remote(worker_calls.try_model, checked.without_shards())
    workers.give(node, first, first.execute.remote(worker_calls.warm))
    workers.fill(room)
    return _tried(checked, model), workers


def _tried(checked: Checked, model: Any) -> Checked:
    check_wandb(checked.config.wandb)
    if model is None:
        return checked
    try:
        tried = ray.get(model, timeout=ANSWER_SECONDS)
    except RayError:  # the worker is gone, or will never come; another will take its place
        return check_model(checked)
    if isinstance(tried, ErrorReport):
        raise tried.error()
    return replace(checked, tried=tried)
