"""A run's model as it is trained: its output layer and attention are chosen, on a small one."""

from __future__ import annotations

import copy
import logging

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from manta.config.run import RunConfig
from manta.model import attention, cross_entropy, model_class
from manta.model import language_model as models
from manta.model.loss_head import fuse
from manta.model.own_net import OwnNet
from manta.model.quantized import check_device
from manta.model.small import small_of
from manta.model.weights import move_buffers

log = logging.getLogger(__name__)


def assemble(
    config: RunConfig,
    resolved: PretrainedConfig | OwnNet,
    device: torch.device,
    *,
    whole: bool = False,
) -> nn.Module:
    """The model, ready to be laid over devices, its buffers on `device`.

    Its parameters have no memory yet, if a small model of its kind can be tried in its place;
    otherwise, with `whole`, or in a model of the user's own, they are on `device` and have the
    values that the run begins with.
    """
    if isinstance(resolved, OwnNet):
        return resolved.build(config.run.seed).to(device)
    if config.model.quantize is not None:
        check_device(config.model.quantize, device)
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        cross_entropy.CHUNK["cuda"] = cross_entropy.chunk_of(memory)
    lm = None if whole else _without_weights(config, resolved, device)
    if lm is None:
        lm = models.build(config, resolved).to(device)
        _choose(config, lm, device)
    made: nn.Module = lm
    return made


def _choose(config: RunConfig, lm: PreTrainedModel, device: torch.device) -> None:
    # In this order: both try the model, and attention by blocks would be compiled for that alone.
    fuse(lm)
    attention.choose(
        lm,
        document_mask=config.data.document_mask,
        seq_len=config.train.seq_len,
        device=device,
    )


def _without_weights(
    config: RunConfig, resolved: PretrainedConfig, device: torch.device
) -> PreTrainedModel | None:
    """The model without memory for its parameters, if it can be had so."""
    try:
        with torch.random.fork_rng(devices=[]):
            lm = models.build_without_weights(config, resolved)
            small = small_of(copy.deepcopy(resolved), lm)
            if small is None:
                return None
            like = model_class.from_config(small)
            _choose(config, like, device)
    except Exception as error:  # each model's class has errors of its own
        log.debug("the model is built whole: %s: %s", type(error).__name__, error)
        return None
    move_buffers(lm, device)
    fuse(lm, like)
    attention.follow(lm, like)
    return lm
