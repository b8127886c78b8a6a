"""Which runs go on in their workers' processes when the group of workers changes."""

from __future__ import annotations

from manta.config.model_names import frozen_model
from manta.config.run import RunConfig
from manta.config.scaling import gpus_of


def goes_on_in_place(config: RunConfig) -> bool:
    """Whether workers that outlive their group keep model and optimizer for the next one.

    Not on GPUs, where a broken exchange may leave what is queued behind it with wrong values; not
    where each worker has a part of the state, which no other could give for one that is lost; nor
    beside a frozen model, which a new worker would have to read while the others wait.
    """
    needs_frozen = frozen_model(config) is not None and config.objective.precomputed_by is None
    on_gpu = gpus_of(config.scaling.resources_per_worker) > 0
    return not (on_gpu or config.parallel.shard or needs_frozen)
