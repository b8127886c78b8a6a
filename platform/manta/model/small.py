"""A small model of the kind of a large one, for seeing what the kind does."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from manta.model import model_class

# Weights that are drawn and tried within some tens of milliseconds.
LIMIT = 4_000_000
VOCABULARY = 512
# Names of sizes: of vectors, of one head, and how many heads and experts there are.
WIDTHS = re.compile(r"(hidden_size|intermediate_size|n_embd|d_model|ffn_dim|n_inner)$")
HEAD_DIM = re.compile(r"head_dim$")
HEADS = re.compile(r"(_heads|n_head)$")
EXPERTS = re.compile(r"(num_experts|num_local_experts|n_routed_experts)$")
MOST_EXPERTS = 16


def skeleton(resolved: PretrainedConfig) -> PreTrainedModel:
    """The model without memory for its weights. Raises whatever the model's class does."""
    with torch.device("meta"):
        return model_class.from_config(resolved)


def small_of(resolved: PretrainedConfig, whole: nn.Module) -> PretrainedConfig | None:
    """A config of the same kind for a model of at most LIMIT weights; None if none is found.

    It has fewer layers, but some of each sort, fewer entries in its vocabulary, and is narrower by
    what its numbers of heads have in common. A model that isn't made of the same classes is none of
    the kind.

    Args:
        resolved: the resolved model.
        whole: skeleton of the model at full size.
    """
    if weights(whole) <= LIMIT:
        return resolved
    for config in _candidates(resolved):
        try:
            lm = skeleton(config)
        except Exception:  # sizes depend on each other in ways that only the class knows
            continue
        if _classes(lm) == _classes(whole) and weights(lm) <= LIMIT:
            return config
    return None


def weights(lm: nn.Module) -> int:
    """How many a model has."""
    return sum(parameter.numel() for parameter in lm.parameters())


def trained_weights(lm: nn.Module) -> int:
    """How many of a model's weights are trained."""
    return sum(parameter.numel() for parameter in lm.parameters() if parameter.requires_grad)


def _classes(lm: nn.Module) -> set[type]:
    return {type(module) for module in lm.modules()}


def _candidates(resolved: PretrainedConfig) -> Iterator[PretrainedConfig]:
    depth = getattr(resolved, "num_hidden_layers", None)
    if not isinstance(depth, int):
        return
    for layers in sorted({min(depth, count) for count in (2, 4, 8)}):
        for heads, width in product(reversed(_common_divisors(resolved)), (8, 4, 2, 1)):
            config = copy.deepcopy(resolved)
            if _cut_layers(config, depth, layers):
                _divide(config, HEADS, heads)
                _divide(config, WIDTHS, heads)
                _divide(config, HEAD_DIM, width)
                _divide(config, WIDTHS, width)
                _cut_experts(config)
                _cut_vocabulary(config)
                yield config


def _cut_layers(config: PretrainedConfig, depth: int, layers: int) -> bool:
    """Leave the first `layers` of `depth` layers; False if that loses a sort of them."""
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == depth:
            if {str(one) for one in value} != {str(one) for one in value[:layers]}:
                return False
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers
    return True


def _common_divisors(config: PretrainedConfig) -> list[int]:
    """Those of the numbers of heads."""
    heads = getattr(config, "num_attention_heads", None) or 1
    common = math.gcd(heads, getattr(config, "num_key_value_heads", None) or heads)
    return [n for n in range(1, common + 1) if common % n == 0]


def _divide(config: PretrainedConfig, names: re.Pattern[str], divisor: int) -> None:
    for name, value in list(vars(config).items()):
        if names.search(name) and isinstance(value, int) and not value % divisor:
            setattr(config, name, value // divisor)


def _cut_experts(config: PretrainedConfig) -> None:
    for name, value in list(vars(config).items()):
        if EXPERTS.search(name) and isinstance(value, int):
            setattr(config, name, min(value, MOST_EXPERTS))


def _cut_vocabulary(config: PretrainedConfig) -> None:
    """Leave VOCABULARY entries; special tokens beyond them become the last ones."""
    if getattr(config, "vocab_size", 0) <= VOCABULARY:
        return
    special = {n: v for n, v in vars(config).items() if n.endswith("_token_id") and v is not None}
    beyond = sorted({one for v in special.values() for one in _listed(v) if one >= VOCABULARY})
    placed = {token: VOCABULARY - 1 - index for index, token in enumerate(beyond)}
    for name, value in special.items():
        moved = [placed.get(one, one) for one in _listed(value)]
        setattr(config, name, moved if isinstance(value, list) else moved[0])
    config.vocab_size = VOCABULARY


def _listed(value: Any) -> list[int]:
    return value if isinstance(value, list) else [value]
