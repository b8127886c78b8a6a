"""Bad values stop the run before they reach the weights."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteGuard:
    """Freezes the weights from the first step whose loss or gradient is not finite.

    The decision is made on the device, so that no step waits for the host: the fused
    optimizer leaves weights and state alone while `frozen` is not zero. The host asks
    `bad_step` where it synchronises anyway.
    """

    def __init__(self, device: torch.device):
        self._bad_step = torch.zeros((), dtype=torch.int64, device=device)

    def observe(self, step: int, grad_norm: Tensor) -> None:
        """Note the gradient norm of `step` (a non-finite loss has made it non-finite)."""
        bad = ~torch.isfinite(grad_norm) & (self._bad_step == 0)
        self._bad_step = torch.where(bad, step, self._bad_step)

    @property
    def frozen(self) -> Tensor:
        """1.0 from the first bad step on, else 0.0; float32 scalar on the device."""
        return (self._bad_step != 0).float()

    def bad_step(self) -> int | None:
        """The first bad step, if there was one. Waits for the device."""
        step = int(self._bad_step.item())
        return step or None
