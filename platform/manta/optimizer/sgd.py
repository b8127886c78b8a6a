"""SGD with momentum by Torch's fused kernel, also of weights that ranks hold in parts."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.sgd import sgd

from manta.optimizer.orders import ATTRIBUTES, local


class FusedSGD(Optimizer):
    """As `torch.optim.SGD(fused=True)`, whose kernel knows no weights that are split over ranks.

    The momentum begins at 0 instead of at the first gradient, which is the same: Torch's would be
    left without values where the first update is dropped.

    Args:
        groups: parameter groups; the weight decay is an L2 penalty.
        momentum: decay rate of the momentum, per step.
        nesterov: whether the momentum is Nesterov's.
    """

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float, nesterov: bool):
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "nesterov": nesterov})
        self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all weights. `closure` must be None."""
        assert closure is None
        dropped, divisor = (getattr(self, name, None) for name in ATTRIBUTES)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            sgd(
                [local(weight) for weight in weights],
                [local(weight.grad) for weight in weights],
                [self._momentum(weight) for weight in weights] if group["momentum"] else [],
                fused=True,
                grad_scale=None if divisor is None else local(divisor),
                found_inf=None if dropped is None else local(dropped),
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=0.0,
                nesterov=group["nesterov"],
                maximize=False,
            )

    def _momentum(self, weight: torch.Tensor) -> torch.Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return local(state["momentum_buffer"])
