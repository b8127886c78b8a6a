"""The language model: any Hugging Face causal LM, and what it is to predict."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from manta.config.errors import ConfigError
from manta.config.run import RunConfig
from manta.train.cross_entropy import IGNORE


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
    with torch.device("meta"):
        count: int = AutoModelForCausalLM.from_config(resolved).num_parameters()
    return count


def build(config: RunConfig, resolved: PretrainedConfig) -> PreTrainedModel:
    """The model in fp32 on the CPU. The same seed gives the same weights on every rank.

    Raises:
        ConfigError: if `data.document_mask` is asked of a model that attends across
            documents all the same.
    """
    torch.manual_seed(config.run.seed)
    if config.model.pretrained is not None:
        lm = AutoModelForCausalLM.from_pretrained(config.model.pretrained, dtype=torch.float32)
    else:
        lm = AutoModelForCausalLM.from_config(resolved, dtype=torch.float32)
    train_all_embeddings(lm)
    if config.train.activation_checkpointing:
        lm.activation_checkpointing_enable({"use_reentrant": False})
    if config.data.document_mask and not keeps_documents_apart(lm):
        raise ConfigError(
            f"data.document_mask: {type(lm).__name__} attends across document boundaries all the "
            "same; turn it off, or take another model.type"
        )
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


@torch.no_grad()
def keeps_documents_apart(lm: nn.Module) -> bool:
    """Whether restarting position ids separates documents in this model: tried, not assumed."""
    was_training = lm.training
    lm.eval()
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    one, other = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]]), torch.tensor([[9, 8, 7, 6, 5, 6, 7, 8]])
    device = next(lm.parameters()).device
    seen = [
        lm(input_ids=t.to(device), position_ids=positions.to(device), use_cache=False).logits
        for t in (one, other)
    ]
    lm.train(was_training)
    return torch.equal(seen[0][:, 4:], seen[1][:, 4:])
