"""Weights in bf16 for forward and backward pass, beside the float32 masters that are trained.

The optimizer, clipping, guards, snapshots, checkpoints and export know the masters alone: an update
that is too small for bf16 adds up in them. After each update the copy is rounded from them anew.
Its gradients are in bf16; those of several forward passes are summed in float32.

A sharded model needs none of this: FSDP2 splits float32 parameters and gathers them in bf16.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class RoundedWeights:
    """The bf16 copy of a model, which shares its buffers, and what is frozen in bf16.

    Attributes:
        lm: the copy.
        exchanging: whether ranks exchange the gradients of the backward pass that runs: then
            `take_in` gets them, bucket by bucket. Otherwise each is taken in as it is computed.

    Args:
        masters: the model in float32, with memory on its device.
        collects: whether masters get the sum of the copies' gradients, once `take_in` is called.
    """

    def __init__(self, masters: PreTrainedModel, *, collects: bool = True):
        copied: dict[int, Any] = {id(buffer): buffer for buffer in masters.buffers()}
        for master in masters.parameters():
            copied[id(master)] = _copy_of(master)
        self.lm = copy.deepcopy(masters, copied)
        self._master_lm = masters
        self.exchanging = False
        self._masters = dict[nn.Parameter, nn.Parameter](
            zip(self.lm.parameters(), masters.parameters(), strict=True)
        )
        if collects:
            for weight in self._trained():
                weight.register_post_accumulate_grad_hook(self._collect)  # type: ignore[no-untyped-call]

    @property
    def pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Each weight of the copy that is trained, and its master."""
        return [(held, self._masters[held]) for held in self._trained()]

    def _trained(self) -> Iterator[nn.Parameter]:
        return (held for held in self._masters if held.requires_grad)

    def share_buffers(self) -> None:
        """Have the copy use the masters' buffers, also after it was given others on the way."""
        for held, master in zip(self.lm.modules(), self._master_lm.modules(), strict=True):
            held._buffers.update(master._buffers)

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the copy from the masters, which have changed."""
        for held, master in self._masters.items():
            if held is not master:
                held.copy_(master)

    def _collect(self, held: Tensor) -> None:
        """Add the gradient of a weight to its master's."""
        if not self.exchanging:
            assert held.grad is not None
            self._add(held, held.grad.float())
            held.grad = None

    def take_in(self, weights: Sequence[Tensor], gradients: Tensor) -> None:
        """Make `gradients` the sum of themselves and of what was collected, for the masters.

        Args:
            weights: this copy's weights, in order.
            gradients: the weights' gradients, concatenated, float32 (elements of all weights,).
        """
        parts = torch.split(gradients, [weight.numel() for weight in weights])
        for held, part in zip(weights, parts, strict=True):
            self._add(held, part.view_as(held))

    def _add(self, held: Tensor, gradient: Tensor) -> None:
        """Add what was collected to a gradient, in place, and give it to the master."""
        master = self._masters[held]
        if master.grad is not None:
            gradient += master.grad
        master.grad = gradient

    def clear(self) -> None:
        """Forget the gradients that were exchanged; the masters have their mean."""
        for held in self._trained():
            held.grad = None


def _copy_of(master: nn.Parameter) -> nn.Parameter:
    """A parameter's copy in bf16, without values; frozen in bf16 or fewer bits it serves itself."""
    floats = master.is_floating_point()
    if not floats or (master.dtype == torch.bfloat16 and not master.requires_grad):
        return master
    values = torch.empty_like(master, dtype=torch.bfloat16)
    return nn.Parameter(values, requires_grad=master.requires_grad)
