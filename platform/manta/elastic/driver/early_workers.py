"""Starts workers, which begin to import, before all checks of the run are done.

If the cluster has room they start at once; they hold no resources until the checks are done. One
of them tries the model, if that wasn't done before Ray was started (`model_trial`): the worker
needs Torch and Transformers anyway, so the driver need not import them.
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
from manta.elastic.controller.holdings import open_pool
from manta.elastic.controller.warm_workers import WarmWorkers
from manta.elastic.driver.trainer import check_resources
from manta.elastic.worker import worker_calls
from manta.elastic.worker.environment import runtime_env_of
from manta.show.wandb.uploader import check_wandb

# Seconds to wait for a worker's reply: a worker whose node is lost may never reply.
ANSWER_SECONDS = 120.0


def begin_workers(checked: Checked) -> tuple[Checked, WarmWorkers]:
    """Start a run's workers if there is room, and check its model and W&B meanwhile.

    Returns:
        The run with the facts about its model, and the workers for `trainer.train`. These may
        still be importing; there are none if the cluster has no room now.

    Raises:
        RunError: if a machine that can't grow lacks what the run needs.
        ConfigError: naming the mistake and the remedy.
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
        # Before the worker's other imports, so that they run beside the driver's remaining checks.
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
    except RayError:  # the worker was lost or never started; another one tries the model
        return check_model(checked)
    if isinstance(tried, ErrorReport):
        raise tried.error()
    return replace(checked, tried=tried)
