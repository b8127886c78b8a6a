"""What an optimizer is told beside the gradient: to drop an update, to divide the gradient.

Both are scalars on the device, so that no host waits for them. Torch's fused optimizers read them
in their kernels; these here are for updates that Torch has no such kernel for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

# The attributes of a fused optimizer of Torch, which GradScaler sets likewise.
ATTRIBUTES = ("found_inf", "grad_scale")


@dataclass(frozen=True)
class Orders:
    """The orders for one update.

    Attributes:
        dropped: whether the update is left out, bool scalar; None for no.
        divisor: scalar that gradients are divided by; None for 1.
    """

    dropped: Tensor | None
    divisor: Tensor | None

    @classmethod
    def to(cls, optimizer: Optimizer) -> Orders:
        """What an optimizer was told last."""
        found, divisor = (
            None if value is None else local(value)
            for value in (getattr(optimizer, name, None) for name in ATTRIBUTES)
        )
        return cls(None if found is None else found != 0, divisor)

    def gradient(self, weight: Tensor) -> Tensor:
        """The part of a weight's gradient that this rank has, divided."""
        assert weight.grad is not None
        gradient = local(weight.grad)
        return gradient if self.divisor is None else gradient / self.divisor

    def put(self, new: Tensor, into: Tensor) -> None:
        """Replace values in place, unless the update is dropped."""
        into.copy_(new if self.dropped is None else torch.where(self.dropped, into, new))


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds; writes reach the original."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
