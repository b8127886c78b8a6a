"""Rows for tokens that a pretrained model's vocabulary lacks."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel

from manta.config.errors import ConfigError


def grow_config(resolved: PretrainedConfig, size: int) -> None:
    """Have a model's config say that its vocabulary has at least `size` entries, in place."""
    text = resolved.get_text_config()
    if text.vocab_size < size:
        text.vocab_size = size


@torch.no_grad()
def grow(lm: PreTrainedModel, size: int) -> None:
    """Give a model rows for at least `size` tokens, in place: each is the mean of all rows before.

    So a token that the model has never seen is as likely as the others are on the whole, which
    keeps its answers what they were (Hewitt, 2021, "Initializing New Word Embeddings for Pretrained
    Language Models"). Embedding and output layer get the same treatment, each by its own mean;
    where they are one matrix they stay one.
    """
    table = lm.get_input_embeddings()
    before = table.weight.shape[0]
    if before >= size:
        return
    lm.resize_token_embeddings(size, mean_resizing=False)
    head = lm.get_output_embeddings()
    for module in (lm.get_input_embeddings(), head):
        if module is not None:
            module.weight[before:] = module.weight[:before].mean(0)
    bias = getattr(head, "bias", None)
    if bias is not None:
        bias[before:] = bias[:before].mean()


def refuse_frozen_rows(lm: PreTrainedModel, size: int) -> None:
    """Refuse to add tokens that would never be learned.

    Args:
        lm: the model with the larger vocabulary, its frozen weights chosen.
        size: number of entries of the vocabulary that was pretrained.

    Raises:
        ConfigError: with the patterns that train them.
    """
    tables = (lm.get_input_embeddings(), lm.get_output_embeddings())
    frozen = [
        name
        for name, module in lm.named_modules()
        if any(module is table for table in tables) and not module.weight.requires_grad
    ]
    added = tables[0].weight.shape[0] - size
    if added <= 0 or not frozen:
        return
    patterns = ", ".join(f"'*{name}*'" for name in frozen)
    raise ConfigError(
        f"model.grow_vocabulary: the {added} tokens that are added would never be learned, as "
        f"{' and '.join(frozen)} would be frozen; train them too: model.train: [{patterns}]"
    )
