"""Cautious weight decay (Chen et al., 2025, arXiv:2510.12402): with the update, never against it.

A weight decays in a step only if the update makes it smaller, too: where both have one sign, as an
update is subtracted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from manta.optimizer.orders import Orders, local

DECAY = "cautious_decay"


def decay_factor(
    group: dict[str, Any], weight: Tensor, update: Tensor, *, cautious: bool
) -> float | Tensor:
    """What the weights of a group are multiplied by in a step, for their decay.

    Args:
        group: a parameter group.
        weight: values before the step.
        update: values that are subtracted, times a rate; of the same shape.
        cautious: whether decay depends on the update.
    """
    decay: float = group["lr"] * group["weight_decay"]
    return 1 - decay * (weight * update >= 0) if cautious and decay else 1 - decay


def decay_cautiously(optimizer: torch.optim.AdamW) -> None:
    """Have an AdamW decay cautiously: before each of its updates, which then have no decay.

    The sign of its update is that of the first moment, which the step is about to change.
    """
    for group in optimizer.param_groups:
        group[DECAY], group["weight_decay"] = group["weight_decay"], 0.0
    optimizer.register_step_pre_hook(_decay)


@torch.no_grad()
def _decay(optimizer: Optimizer, *_: Any) -> None:
    orders = Orders.to(optimizer)
    for group in optimizer.param_groups:
        asked = {"lr": group["lr"], "weight_decay": group[DECAY]}
        for weight in group["params"]:
            if weight.grad is None or not group[DECAY]:
                continue
            mine, moment = local(weight), optimizer.state.get(weight, {}).get("exp_avg")
            update = orders.gradient(weight)
            if moment is not None:
                update = local(moment).lerp(update, 1 - group["betas"][0])
            orders.put(mine * decay_factor(asked, mine, update, cautious=True), into=mine)
