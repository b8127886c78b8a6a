"""Muon (Jordan, 2024), Torch's own, of matrices that ranks may hold in parts.

An update needs the whole matrix: where FSDP2 has split it, each rank gathers what is to be made
orthogonal, computes it whole, and applies its own rows. So it is the same at any number of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from manta.optimizer.cautious import decay_factor
from manta.optimizer.orders import Orders, local


class GatheringMuon(torch.optim.Muon):
    """Torch's Muon, which takes orders and updates matrices that are split over ranks.

    The Newton-Schulz iteration and the factor of the rate are internal to Torch 2.13;
    tests/train/test_optimizers.py guards them and that an update is Torch's to the bit.

    Args:
        groups: parameter groups of matrices.
        momentum: decay rate of the momentum, per step.
        nesterov: whether the momentum is Nesterov's.
        adjust_lr: how the rate follows a matrix's shape, as `adjust_lr_fn` of Torch's.
        cautious: whether only weights that the update makes smaller decay.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        momentum: float,
        nesterov: bool,
        adjust_lr: str,
        cautious: bool,
    ):
        super().__init__(
            groups, lr=0.0, momentum=momentum, nesterov=nesterov, adjust_lr_fn=adjust_lr
        )
        self._cautious = cautious
        self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all matrices; all ranks of a sharded model must call together.

        `closure` must be None.
        """
        assert closure is None
        orders = Orders.to(self)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group, orders)

    def _update(self, weight: nn.Parameter, group: dict[str, Any], orders: Orders) -> None:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum, held, mine = group["momentum"], local(state["momentum_buffer"]), local(weight)
        gradient = orders.gradient(weight)
        averaged = held.lerp(gradient, 1 - momentum)
        raw = gradient.lerp(averaged, momentum) if group["nesterov"] else averaged
        whole = _zeropower_via_newtonschulz(
            _gathered(raw, weight), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        update = _own_rows(whole, weight)
        shrunk = mine * decay_factor(group, mine, update, cautious=self._cautious)
        rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], weight.shape)
        orders.put(shrunk.add_(update, alpha=-rate), into=mine)
        orders.put(averaged, into=held)


def _gathered(part: Tensor, like: Tensor) -> Tensor:
    """The whole matrix of which ranks have parts as of `like`."""
    if not isinstance(like, DTensor):
        return part
    split = DTensor.from_local(
        part,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
    return split.full_tensor()


def _own_rows(whole: Tensor, like: Tensor) -> Tensor:
    """The part of a matrix that this rank has of `like`."""
    if not isinstance(like, DTensor):
        return whole
    mesh = like.device_mesh
    replicated = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(placements=like.placements).to_local()
