"""Lion (Chen et al., 2023, arXiv:2302.06675): an update is the sign of a momentum."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from manta.optimizer.cautious import decay_factor
from manta.optimizer.orders import Orders, local


class Lion(Optimizer):
    """Lion with decoupled weight decay; takes orders.

    With the gradient g, momentum m, rate η and decay λ of a step:
    ``w ← (1 - ηλ) w - η sign(β₁ m + (1 - β₁) g)`` and then ``m ← β₂ m + (1 - β₂) g``.

    Args:
        groups: parameter groups.
        betas: β₁ and β₂.
        cautious: whether only weights that the update makes smaller decay.
    """

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float], cautious: bool):
        super().__init__(groups, {"lr": 0.0, "betas": betas})
        self._cautious = cautious
        self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all weights. `closure` must be None."""
        assert closure is None
        orders = Orders.to(self)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group, orders)

    def _update(self, weight: nn.Parameter, group: dict[str, Any], orders: Orders) -> None:
        state = self.state[weight]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(weight)
        first, second = group["betas"]
        gradient, momentum, mine = orders.gradient(weight), local(state["exp_avg"]), local(weight)
        update = momentum.lerp(gradient, 1 - first).sign_()
        shrunk = mine * decay_factor(group, mine, update, cautious=self._cautious)
        orders.put(shrunk.add_(update, alpha=-group["lr"]), into=mine)
        orders.put(momentum.lerp(gradient, 1 - second), into=momentum)
