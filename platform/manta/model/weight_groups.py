"""Which trained weights an optimizer treats alike: by kind, and by patterns of their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from manta.config.errors import ConfigError
from manta.config.model import ParametrizationSection
from manta.config.optimizer import OptimizerGroup, OptimizerSection
from manta.model.model_class import head_of
from manta.model.parametrization import Factors, factors_of
from manta.model.trainable import matching

Update = Literal["adamw", "muon", "lion", "sgd"]
# What a group has in common: its update, the config's group, whether it decays, and its factors.
Key = tuple[Update, int | None, bool, Factors]


@dataclass(frozen=True)
class WeightGroup:
    """Trained weights with the same update, rate and decay.

    Attributes:
        weights: the weights, in the model's order; at least one.
        update: the name of their update rule.
        lr_factor: factor of the schedule's learning rate.
        weight_decay: their weight decay.
        eps_factor: factor of AdamW's eps.
    """

    weights: list[nn.Parameter]
    update: Update
    lr_factor: float
    weight_decay: float
    eps_factor: float


def weight_groups(
    lm: nn.Module,
    section: OptimizerSection,
    parametrization: ParametrizationSection | None = None,
) -> list[WeightGroup]:
    """All trained weights in groups: matrices decay; norms, biases and embeddings don't.

    Args:
        lm: the model; its weights may be split over ranks, or have no memory.
        section: the config's section `optimizer`.
        parametrization: how rates, decays and eps depend on the model's sizes, if they do.

    Raises:
        ConfigError: if a pattern is the name of no weight, or Muon has nothing to update.
    """
    chosen, hidden = _chosen(lm, section), _hidden(lm, section)
    embeddings = set(_embeddings(lm))
    factors = {}
    if parametrization is not None:
        factors = {id(weight): each for weight, each in factors_of(lm, parametrization)}
    found: dict[Key, list[nn.Parameter]] = {
        key: []
        for key in product(
            _updates(section),
            (None, *range(len(section.groups))),
            (True, False),
            dict.fromkeys(factors.values()) or (Factors(),),
        )
    }
    for weight in lm.parameters():
        if weight.requires_grad:
            update = _updates(section)[0 if id(weight) in hidden else -1]
            decays = section.decay_all or (weight.ndim >= 2 and id(weight) not in embeddings)
            own = factors.get(id(weight), Factors())
            found[update, chosen.get(id(weight)), decays, own].append(weight)
    groups = [_group(section, weights, *key) for key, weights in found.items() if weights]
    if section.type == "muon" and all(group.update != "muon" for group in groups):
        raise ConfigError(
            "optimizer.type = 'muon': the model has no matrix between its embeddings and its "
            "output layer that is trained, and not by_adamw; take adamw"
        )
    return groups


def _updates(section: OptimizerSection) -> tuple[Update, ...]:
    """The update of hidden matrices first, that of all else last."""
    return ("muon", "adamw") if section.type == "muon" else (section.type,)


def _hidden(lm: nn.Module, section: OptimizerSection) -> set[int]:
    """The ids of the matrices between embeddings and output layer, but for those by AdamW."""
    matrices = {id(weight) for weight in lm.parameters() if weight.ndim == 2}
    by_adamw = map(id, matching(lm, section.by_adamw, "optimizer.by_adamw"))
    return matrices - {*_embeddings(lm), *_heads(lm), *by_adamw}


def _group(
    section: OptimizerSection,
    weights: list[nn.Parameter],
    update: Update,
    index: int | None,
    decays: bool,
    factors: Factors,
) -> WeightGroup:
    own = OptimizerGroup(names=["*"]) if index is None else section.groups[index]
    decay = section.weight_decay * own.decay * factors.decay if decays else 0.0
    return WeightGroup(weights, update, own.lr * factors.lr, decay, factors.eps)


def _chosen(lm: nn.Module, section: OptimizerSection) -> dict[int, int]:
    """The group of each weight that a pattern names, by the weight's id: the first one counts."""
    chosen: dict[int, int] = {}
    for index, group in enumerate(section.groups):
        for weight in matching(lm, group.names, f"optimizer.groups.{index}.names"):
            chosen.setdefault(id(weight), index)
    return chosen


def _embeddings(lm: nn.Module) -> Iterator[int]:
    """The ids of embedding tables."""
    for module in lm.modules():
        if isinstance(module, nn.Embedding):
            yield from map(id, module.parameters(recurse=False))


def _heads(lm: nn.Module) -> Iterator[int]:
    """The ids of the weights of a model's output layers, for tokens or for scores."""
    if not isinstance(lm, PreTrainedModel):
        return
    for head in (lm.get_output_embeddings(), head_of(lm)):
        if head is not None:
            yield from map(id, head.parameters())
