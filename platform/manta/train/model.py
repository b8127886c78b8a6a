"""The language model: any Hugging Face causal LM, and what it is to predict."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from manta.config.run import RunConfig
from manta.train.cross_entropy import IGNORE
from manta.train.small import skeleton, weights


def labels_of(tokens: Tensor, position_ids: Tensor | None) -> Tensor:
    """The next token of each token within its window, IGNORE where there is none.

    With `position_ids`, the first token of a document is nobody's label: the document
    before it says nothing about it.
    """
    labels = torch.full_like(tokens, IGNORE)
    labels[:, :-1] = tokens[:, 1:]
    if position_ids is not None:
        labels[:, :-1].masked_fill_(position_ids[:, 1:] == 0, IGNORE)
    return labels


def parameters_of(resolved: PretrainedConfig) -> int:
    """How many weights the model has; none of them is made."""
    return weights(skeleton(resolved))


def build(config: RunConfig, resolved: PretrainedConfig) -> PreTrainedModel:
    """The model in fp32 on the CPU. The same seed gives the same weights on every rank."""
    torch.manual_seed(config.run.seed)
    if config.model.pretrained is not None:
        lm = AutoModelForCausalLM.from_pretrained(config.model.pretrained, dtype=torch.float32)
    else:
        lm = AutoModelForCausalLM.from_config(resolved, dtype=torch.float32)
    train_all_embeddings(lm)
    if config.train.activation_checkpointing:
        lm.activation_checkpointing_enable({"use_reentrant": False})
    lm.train()
    return lm


def train_all_embeddings(lm: nn.Module) -> None:
    """Let every token's embedding get its gradient.

    Samples are full, so that there is no padding in them; what a model takes for padding by its
    config is a token of the corpus like any other.
    """
    for module in lm.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None
