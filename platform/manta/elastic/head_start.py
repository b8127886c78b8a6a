"""Workers that begin to import before the run is checked to its end.

On one machine it is known where the workers are to be, so they can start with Ray itself; they
hold nothing of the machine until the run is found sound. One of them looks at the model, of
which the driver knows only that its names and sizes can be: it needs Torch and Transformers all
the same, and the driver is spared importing them.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayError

from manta.config.errors import ConfigError
from manta.elastic import nodes, start
from manta.elastic.environment import runtime_env_of
from manta.elastic.group import open_worker
from manta.elastic.policy import open_pool
from manta.elastic.preflight import Checked, check_model
from manta.elastic.spares import Spares
from manta.elastic.trainer import check_resources
from manta.elastic.wish import bundle_of
from manta.track import check_wandb


def begin_workers(checked: Checked) -> Spares:
    """Start the workers of a run on this machine, and check its model and W&B in the meantime.

    Returns:
        The workers, for `trainer.train`. They may still be importing.

    Raises:
        RunError: if the machine has not what the run needs.
        ConfigError: naming what is wrong and what to do.
    """
    check_resources(checked.config)
    scaling = checked.config.scaling
    resources = dict(scaling.resources_per_worker)
    environment = runtime_env_of(resources)
    (here,) = nodes.alive()
    first = open_worker(here, environment, resources)
    # Before its other imports: what the driver then has left to do goes on beside them.
    model = first.execute.remote(
        start.wrong_with_model, checked.config, checked.manifest.vocab_size
    )
    workers = open_pool(resources, environment)
    workers.give(here, first, first.execute.remote(start.warm))
    workers.fill({here: min(scaling.upper, nodes.room_for(bundle_of(resources)))})
    _raise_if_wrong(checked, model)
    return workers


def _raise_if_wrong(checked: Checked, model: Any) -> None:
    check_wandb(checked.config.wandb)
    try:
        wrong = ray.get(model)
    except RayError:  # the worker is gone; another will take its place
        check_model(checked)
        return
    if wrong is not None:
        raise ConfigError(wrong)
