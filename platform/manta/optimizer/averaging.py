"""An exponential moving average of the weights, kept as a part of the optimizer's state.

So it is in checkpoints and snapshots, split over ranks as weights are, and goes on at any number of
ranks. It forgets by tokens, not by steps: a change of the batch size does not change its meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from manta.optimizer.joined import JoinedOptimizer
from manta.optimizer.orders import Orders, local
from manta.schedule import Step

# Name of a weight's average in the optimizer's state.
AVERAGE = "average"


class AveragingOptimizer(JoinedOptimizer):
    """Optimizers, and the average of what they make of the weights.

    After a step that ends at T tokens, weights of t tokens ago count 2^(-t / half-life). The sum of
    all that count is known in closed form, so that the average is one from the first step on.

    Args:
        parts: the optimizers.
        half_life: tokens after which weights count half as much.
    """

    def __init__(self, parts: Sequence[Optimizer], half_life: int):
        super().__init__(parts)
        self._half_life, self._share = half_life, 1.0

    def weigh(self, step: Step) -> None:
        """Set the share that the weights after a step have in the average."""
        lost, counted = (
            1 - 2.0 ** (-tokens / self._half_life)
            for tokens in (step.tokens_after - step.tokens, step.tokens_after)
        )
        self._share = lost / counted

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all weights and their average. `closure` must be None."""
        super().step(closure)
        orders = Orders.to(self)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._average(weight, orders)

    def _average(self, weight: nn.Parameter, orders: Orders) -> None:
        state = self.state[weight]
        if AVERAGE not in state:
            state[AVERAGE] = weight.detach().clone()
        held = local(state[AVERAGE])
        orders.put(held.lerp(local(weight), self._share), into=held)


def has_average(optimizer: Optimizer) -> bool:
    """Whether weights have an average by now."""
    return any(AVERAGE in state for state in optimizer.state.values())


@contextmanager
def swapped(optimizer: Optimizer) -> Iterator[None]:
    """In it, weights and their averages are in each other's place; on no rank may they change."""
    _swap(optimizer)
    try:
        yield
    finally:
        _swap(optimizer)


@torch.no_grad()
def _swap(optimizer: Optimizer) -> None:
    for weight, state in optimizer.state.items():
        if AVERAGE in state:
            mine, average = local(weight), local(state[AVERAGE])
            kept = mine.clone()
            mine.copy_(average)
            average.copy_(kept)
