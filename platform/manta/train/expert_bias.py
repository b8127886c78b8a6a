"""Balance of experts without a loss: each router's bias moves against the load of its experts.

DeepSeek-V3 (arXiv:2412.19437, section 2.1.2; arXiv:2408.15664): the bias is added to an expert's
score for the choice alone. After each optimizer step it rises by a rate for experts that had less
than the mean load, and falls for those that had more.

Loads are counted over the whole global batch: integers, summed over micro-batches and ranks. How
rows are laid over them changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from manta.model.routers import biases_of, choice_of, routers_of
from manta.parallel.ranks import Ranks
from manta.parallel.sharding import replicated


class ExpertBias:
    """The biases of a model's routers, and the loads of their experts in the step that runs.

    Raises:
        ConfigError: if the model has no such biases.
    """

    def __init__(self, rate: float, lm: nn.Module, computing: nn.Module, ranks: Ranks):
        """Take hold of the routers.

        Args:
            rate: the amount by which a bias moves in a step.
            lm: the model whose biases are saved.
            computing: the model that is called in its place, of the same modules, or the same.
            ranks: the ranks among whom loads are summed.
        """
        self._rate, self.ranks = rate, ranks
        self._biases = list(biases_of(lm).values())
        values = [bias.value for bias in self._biases]
        self._loads = [
            torch.zeros(value.numel(), dtype=torch.int64, device=value.device) for value in values
        ]
        self._share: tuple[int, int] | None = None
        for router, loads in zip(routers_of(computing).values(), self._loads, strict=True):
            router.register_forward_hook(self._counter(loads))

    @contextmanager
    def counting(self, rows: int, width: int) -> Iterator[None]:
        """In it, loads are counted; not where a backward pass computes activations again.

        Args:
            rows: the rows of the forward pass that count; blank ones follow them.
            width: rows of the forward pass, but for `rows` that are more.
        """
        self._share = rows, max(rows, width)
        try:
            yield
        finally:
            self._share = None

    def _counter(self, loads: Tensor) -> Any:
        def count(router: nn.Module, given: Any, output: Any) -> None:
            if self._share is None:
                return
            _, chosen = choice_of(router, output, "objective.bias_rate")
            rows, width = self._share
            counted = chosen[: len(chosen) * rows // width].flatten()
            loads.scatter_add_(0, counted, torch.ones_like(counted))

        return count

    @torch.no_grad()
    def move(self, dropped: Tensor) -> None:
        """End a step: move the biases by the loads of all ranks, and count anew.

        Args:
            dropped: scalar, not 0 if the step's update was left out: then no bias moves.
        """
        summed = self.ranks.sum(torch.cat(self._loads))
        loads = torch.split(summed, [len(own) for own in self._loads])
        kept = dropped == 0
        for place, load, own in zip(self._biases, loads, self._loads, strict=True):
            bias = place.value
            # The sign of the mean less the load, in integers.
            direction = (load.sum() - len(load) * load).sign() * kept
            change = (self._rate * direction).to(bias.dtype).view(bias.shape)
            bias.add_(replicated(change, bias) if isinstance(bias, DTensor) else change)
            own.zero_()
