"""Parametrizations under which one learning rate fits models of any width and depth.

muP (Yang et al., 2021, arXiv:2203.03466) and CompleteP (Dey et al., 2025, arXiv:2505.01618, α = 1)
for AdamW, beside a base model at which all factors are 1. Here m is width / base width, and d is
depth / base depth, or 1 under muP. The papers' multipliers of forward passes, 1/m of the logits and
1/d of what a block adds to the residual stream, are taken into the weights before them: by the
symmetry of Adam that is the same training, and the model stays one that any tool loads.

| weights                                  | first values | rate    | decay · rate | eps     |
| ---------------------------------------- | ------------ | ------- | ------------ | ------- |
| embedding                                | 1            | 1       | 1            | 1/m     |
| into a block: q, k, v, gate, up          | 1/√m         | 1/m     | 1            | 1/(m d) |
| out of a block: o_proj, down_proj        | 1/(√m d)     | 1/(m d) | 1            | 1/m     |
| their biases                             | 1            | 1/d     | 1            | 1/m     |
| norms and biases within a block          | 1            | 1       | 1            | 1/(m d) |
| last norm                                | 1            | 1       | 1            | 1/m     |
| output layer                             | 1/m          | 1/m     | 1            | 1       |
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from manta.config.errors import ConfigError
from manta.config.model import ParametrizationSection

# Types whose blocks add two branches to the residual stream, each after a norm and out of a linear
# layer of one of these names, and whose embeddings and logits have no factors of their own.
TYPES = ("llama", "mistral", "qwen2", "qwen3")
OUT_OF_BLOCK, BLOCK = ("o_proj", "down_proj"), ".layers."
KEY = "model.parametrization"


@dataclass(frozen=True)
class Factors:
    """What is multiplied for some weights, beside a model of the base's sizes.

    Attributes:
        init: factor of the first values.
        lr: factor of the learning rate.
        decay: factor of the weight decay, which is multiplied by the rate.
        eps: factor of AdamW's eps.
    """

    init: float = 1.0
    lr: float = 1.0
    decay: float = 1.0
    eps: float = 1.0


def check(section: ParametrizationSection, resolved: PretrainedConfig) -> None:
    """Refuse a model for which the table does not say what is right.

    Raises:
        ConfigError: with the reason.
    """
    if resolved.model_type not in TYPES:
        raise ConfigError(
            f"{KEY}: it is known what each weight does in models of the types {', '.join(TYPES)}, "
            f"but not in {resolved.model_type}: take one of these, or leave it out"
        )
    if resolved.tie_word_embeddings:
        raise ConfigError(
            f"{KEY}: the output layer has other first values and rates than the embedding, so they "
            "can't be one: set model.sizes.tie_word_embeddings to false"
        )


def factors_of(
    lm: nn.Module, section: ParametrizationSection
) -> Iterator[tuple[nn.Parameter, Factors]]:
    """The factors of each weight of a model that was checked."""
    assert isinstance(lm, PreTrainedModel)
    m = lm.config.hidden_size / section.base_width
    d = lm.config.num_hidden_layers / section.base_depth if section.base_depth else 1.0
    for name, weight in lm.named_parameters():
        yield weight, _factors(name, weight.ndim, m, d)


def _factors(name: str, axes: int, m: float, d: float) -> Factors:
    module = name.rpartition(".")[0]
    if BLOCK in name:
        out = module.endswith(OUT_OF_BLOCK)
        lr = 1 / d if out else 1.0
        eps = 1 / m if out else 1 / (m * d)
        if axes < 2:
            return Factors(lr=lr, decay=1 / lr, eps=eps)
        return Factors(init=lr / math.sqrt(m), lr=lr / m, decay=m / lr, eps=eps)
    if axes < 2 or "embed" in module:
        return Factors(eps=1 / m)
    return Factors(init=1 / m, lr=1 / m, decay=m)


@torch.no_grad()
def scale_first_values(lm: PreTrainedModel, section: ParametrizationSection) -> None:
    """Give a model that was just made the first values of its parametrization."""
    for weight, factors in factors_of(lm, section):
        weight.mul_(factors.init)
