"""The language model: any Hugging Face causal LM, or one with a head for scores."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from manta.config.model_names import hub_name
from manta.config.run import RunConfig
from manta.model import model_class
from manta.model.own_net import OwnNet
from manta.model.parametrization import scale_first_values
from manta.model.small import skeleton, trained_weights, weights
from manta.model.trainable import choose_trained, hold_frozen
from manta.model.vocabulary import grow
from manta.model.weights import no_memory_for_parameters


def saved_and_trained(config: RunConfig, resolved: PretrainedConfig | OwnNet) -> tuple[int, int]:
    """How many weights checkpoints of a run hold, and how many are trained.

    Of a model of Transformers no weight is made. What is frozen is in no checkpoint.
    """
    if isinstance(resolved, OwnNet):
        lm = resolved.build(0)
    else:
        lm = skeleton(resolved)
        choose_trained(lm, config.model, config.run.seed)
    trained = trained_weights(lm)
    return trained if config.model.freezes else weights(lm), trained


def build(config: RunConfig, resolved: PretrainedConfig) -> PreTrainedModel:
    """The model in fp32 on the CPU. The same seed gives the same weights on every rank."""
    torch.manual_seed(config.run.seed)
    if config.model.pretrained is not None:
        name, revision = hub_name(config.model.pretrained)
        lm = model_class.from_pretrained(name, resolved, revision)
        if config.model.grow_vocabulary:
            grow(lm, resolved.get_text_config().vocab_size)
    else:
        lm = model_class.from_config(resolved)
        if config.model.parametrization is not None:
            scale_first_values(lm, config.model.parametrization)
    return _ready(config, lm)


def build_without_weights(config: RunConfig, resolved: PretrainedConfig) -> PreTrainedModel:
    """As `build`, but parameters are on `meta`; buffers are on the CPU and have their values.

    Raises:
        ValueError: if buffers are random: only the whole sequence of draws gives them their values.
            And whatever else the model's class raises.
    """
    before = torch.get_rng_state()
    lm = _without_weights(resolved)
    if not torch.equal(before, torch.get_rng_state()):
        other = _without_weights(resolved)  # of other draws: here the generator has moved on
        pairs = zip(lm.buffers(), other.buffers(), strict=True)
        if not all(torch.equal(one, another) for one, another in pairs):
            raise ValueError(f"{type(lm).__name__} has random numbers beside its weights")
    return _ready(config, lm)


def _without_weights(resolved: PretrainedConfig) -> PreTrainedModel:
    with no_memory_for_parameters(), no_init_weights():
        lm = model_class.from_config(resolved)
    lm.init_weights()  # ties parameters; some buffers, too, get their values here
    return lm


def _ready(config: RunConfig, lm: PreTrainedModel) -> PreTrainedModel:
    train_all_embeddings(lm)
    choose_trained(lm, config.model, config.run.seed)
    hold_frozen(lm, config.model)
    if config.train.activation_checkpointing:
        lm.activation_checkpointing_enable({"use_reentrant": False})
    lm.train()
    return lm


def train_all_embeddings(lm: nn.Module) -> None:
    """Let every token's embedding get its gradient.

    Samples are full, so that there is no padding in them; what a model takes for padding by its
    config is a token of the corpus like any other. A table of positions has no tokens, and may
    count from its padding index (ProphetNet's).
    """
    for module in lm.modules():
        if isinstance(module, nn.Embedding) and "Position" not in type(module).__name__:
            module.padding_idx = None
