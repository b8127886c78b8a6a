"""The frozen model beside the trained one, laid over the ranks as that one is.

It computes what the trained model would with the same weights, to the bit, and needs no more memory
for that than its weights:

- With `parallel.shard` FSDP2 splits it, too. With `train.precision: bf16` it is held in bf16, which
  FSDP2 gathers of the trained model's weights as well.
- With `train.param_dtype: bf16` it is held in bf16, as the copy that the trained model computes by.
- Otherwise, where autocast rounds the weights of linear layers at each pass, these are held
  rounded, and all others in float32: norms and embeddings work in float32 under autocast.
- With `train.precision: no` it is held in float32.
"""

from __future__ import annotations

import torch
from torch import nn

from manta.config.model import ModelSection
from manta.config.model_names import NamedModel, frozen_model
from manta.config.run import RunConfig
from manta.model import language_model as models
from manta.model import weights
from manta.model.assembly import assemble
from manta.model.hf_config import pretrained_config
from manta.objective.protocol import FrozenModel
from manta.parallel.sharding import shard

ROUNDED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def frozen_beside(config: RunConfig, device: torch.device, *, sharded: bool) -> FrozenModel | None:
    """The frozen model of a run, with its values; None if it needs none in its workers.

    All ranks must call together: the first one reads the weights, and hands them to the others.

    Args:
        config: the run.
        device: this rank's device.
        sharded: whether the trained model is split over ranks, and this one likewise.

    Raises:
        ConfigError: if the model can't be had.
    """
    source = frozen_model(config)
    if source is None or config.objective.precomputed_by is not None:
        return None
    return frozen_from(source, config, device, sharded=sharded)


def frozen_from(
    source: NamedModel, config: RunConfig, device: torch.device, *, sharded: bool
) -> FrozenModel:
    """As `frozen_beside`, of a model that is needed."""
    alone, resolved = _by_itself(config, source), pretrained_config(source)
    lm = assemble(alone, resolved, device)
    frozen = FrozenModel(lm)
    _round(lm, config, sharded=sharded)
    if sharded:
        shard(lm, device, config)
    if weights.without_values(lm):
        weights.give_memory(lm, device, sharded=sharded)
        weights.fill(lm, lambda: models.build(alone, resolved))
    return frozen


def _by_itself(config: RunConfig, source: NamedModel) -> RunConfig:
    """The config of a run of this model alone; what is for backward passes is left out."""
    train = config.train.model_copy(update={"activation_checkpointing": False})
    return config.model_copy(update={"model": ModelSection(pretrained=source.name), "train": train})


def _round(lm: nn.Module, config: RunConfig, *, sharded: bool) -> None:
    """Have the weights in the type in which they are used; tied ones stay one."""
    dtype = ROUNDED.get(config.train.precision)
    if dtype is None:
        return
    whole = sharded or config.train.param_dtype == "bf16"
    kept = set() if whole else _used_in_float32(lm)
    for weight in lm.parameters():
        if weight not in kept:
            weight.data = weight.data.to(dtype)


def _used_in_float32(lm: nn.Module) -> set[nn.Parameter]:
    """The weights that not only linear layers use."""
    linear = (nn.Linear,)
    return {
        weight
        for module in lm.modules()
        if not isinstance(module, linear)
        for weight in module.parameters(recurse=False)
    }
