"""The optimizer of a run, with its parameter groups, and what each step sets in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from manta.config.model import ParametrizationSection
from manta.config.optimizer import OptimizerSection
from manta.model.weight_groups import WeightGroup, weight_groups
from manta.optimizer.averaging import AveragingOptimizer
from manta.optimizer.cautious import decay_cautiously
from manta.optimizer.joined import JoinedOptimizer
from manta.optimizer.lion import Lion
from manta.optimizer.muon import GatheringMuon
from manta.optimizer.sgd import FusedSGD
from manta.schedule import Step

FUSED_DEVICES = {"cpu", "cuda", "xpu", "mps"}
LR_FACTOR = "lr_factor"


def build(
    section: OptimizerSection,
    lm: nn.Module,
    horizon: int,
    parametrization: ParametrizationSection | None = None,
) -> Optimizer:
    """The optimizer of all trained weights of `lm`, which have memory on their device.

    Its learning rate is 0 until `prepare` sets it.

    Args:
        section: the config's section `optimizer`.
        lm: the model; its weights may be split over ranks.
        horizon: tokens of the whole run.
        parametrization: how rates, decays and eps depend on the model's sizes, if they do.

    Raises:
        ConfigError: if the section does not fit the model.
    """
    by_update: dict[str, list[dict[str, Any]]] = {}
    for group in weight_groups(lm, section, parametrization):
        by_update.setdefault(group.update, []).append(_settings(group, section))
    parts = [_part(update, groups, section) for update, groups in by_update.items()]
    if section.average is not None:
        return AveragingOptimizer(parts, section.average.tokens(horizon))
    return parts[0] if len(parts) == 1 else JoinedOptimizer(parts)


def prepare(optimizer: Optimizer, step: Step) -> None:
    """Set what the update of a step goes by: the rate of each group, the share in an average."""
    if isinstance(optimizer, AveragingOptimizer):
        optimizer.weigh(step)
    for group in optimizer.param_groups:
        group["lr"] = step.lr * group.get(LR_FACTOR, 1.0)


def takes_orders(optimizer: Optimizer) -> bool:
    """Whether it can be told to skip an update, or to divide the gradient, by scalars on a device.

    By `found_inf` and `grad_scale`, which are internal to Torch: a fused optimizer has them from
    GradScaler, which uses them itself in fp16, and which knows such an optimizer by the same mark.
    tests/train/test_language_model.py and test_guards.py guard them.
    """
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def _settings(group: WeightGroup, section: OptimizerSection) -> dict[str, Any]:
    """A parameter group of Torch."""
    settings: dict[str, Any] = {"params": group.weights, "weight_decay": group.weight_decay}
    if section.groups or group.lr_factor != 1:
        settings[LR_FACTOR] = group.lr_factor
    if group.eps_factor != 1:
        settings["eps"] = section.eps * group.eps_factor
    return settings


def _part(update: str, groups: list[dict[str, Any]], section: OptimizerSection) -> Optimizer:
    """The optimizer of the groups with one update."""
    if update == "adamw":
        return _adamw(groups, section)
    if update == "lion":
        return Lion(groups, betas=section.betas, cautious=section.cautious)
    momentum, nesterov = section.momentum_used, section.nesterov_used
    if update == "sgd":
        return FusedSGD(groups, momentum=momentum, nesterov=nesterov)
    return GatheringMuon(
        groups,
        momentum=momentum,
        nesterov=nesterov,
        adjust_lr=section.adjust_lr,
        cautious=section.cautious,
    )


def _adamw(groups: list[dict[str, Any]], section: OptimizerSection) -> torch.optim.AdamW:
    weights = [weight for group in groups for weight in group["params"]]
    optimizer = torch.optim.AdamW(
        groups,
        lr=0.0,
        betas=section.betas,
        eps=section.eps,
        fused=all(weight.device.type in FUSED_DEVICES for weight in weights),
    )
    if section.cautious:
        decay_cautiously(optimizer)
    return optimizer
