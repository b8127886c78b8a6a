"""Muon (Jordan, 2024), Torch's own, of matrices that ranks may hold in parts.

An update needs the whole matrix: where FSDP2 has split it, ranks gather what is to be made
orthogonal. Each matrix is made so by one rank, as a whole, which hands the result to all. So it is
the same at any number of ranks, and each of N ranks has 1/N of that work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from manta.optimizer.cautious import decay_factor
from manta.optimizer.orders import Orders, local


@dataclass(frozen=True)
class _Update:
    """A matrix in the middle of its update.

    Attributes:
        weight: the matrix.
        group: parameter group of the matrix.
        averaged: new momentum of the rows that this rank has.
        whole: direction of the update, as a whole matrix, that is to be made orthogonal.
    """

    weight: nn.Parameter
    group: dict[str, Any]
    averaged: Tensor
    whole: Tensor


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
        """Update all matrices; all ranks must call together. `closure` must be None."""
        assert closure is None
        orders = Orders.to(self)
        matrices = [
            (weight, group)
            for group in self.param_groups
            for weight in group["params"]
            if weight.grad is not None
        ]
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        for first in range(0, len(matrices), ranks):
            updates = [self._begin(*one, orders) for one in matrices[first : first + ranks]]
            for update, made in zip(updates, _shared(updates, ranks), strict=True):
                self._end(update, made, orders)

    def _begin(self, weight: nn.Parameter, group: dict[str, Any], orders: Orders) -> _Update:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum, gradient = group["momentum"], orders.gradient(weight)
        averaged = local(state["momentum_buffer"]).lerp(gradient, 1 - momentum)
        raw = gradient.lerp(averaged, momentum) if group["nesterov"] else averaged
        return _Update(weight, group, averaged, _gathered(raw, weight))

    def _end(self, update: _Update, made: Tensor, orders: Orders) -> None:
        """Apply what was made orthogonal, shape as the whole matrix's."""
        weight, group = update.weight, update.group
        mine, direction = local(weight), _own_rows(made, weight)
        shrunk = mine * decay_factor(group, mine, direction, cautious=self._cautious)
        rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], weight.shape)
        orders.put(shrunk.add_(direction, alpha=-rate), into=mine)
        orders.put(update.averaged, into=local(self.state[weight]["momentum_buffer"]))


def _shared(updates: list[_Update], ranks: int) -> list[Tensor]:
    """The orthogonal matrices of at most `ranks` updates: each made by one rank, for all."""
    if ranks == 1:
        return [_orthogonal(update) for update in updates]
    rank = dist.get_rank()
    made = [
        _orthogonal(update).contiguous()
        if owner == rank
        else update.whole.new_empty(update.whole.shape, dtype=torch.bfloat16)
        for owner, update in enumerate(updates)
    ]
    works = [dist.broadcast(one, owner, async_op=True) for owner, one in enumerate(made)]
    for work in works:
        work.wait()
    return made


def _orthogonal(update: _Update) -> Tensor:
    """What Muon makes of a matrix, bf16 of the same shape."""
    group = update.group
    found: Tensor = _zeropower_via_newtonschulz(
        update.whole, group["ns_coefficients"], group["ns_steps"], group["eps"]
    )
    return found


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
