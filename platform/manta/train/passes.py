"""The forward and backward passes of a step on one rank."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from manta.model.compiling import no_fallback
from manta.objective.protocol import DeviceRows
from manta.objective.weighing import Weighing
from manta.train.expert_bias import ExpertBias


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        inputs: rows on the device.
        rows: the rows of `inputs` that the pass computes; it may be none.
        pieces: rows that a sample is cut into.
    """

    inputs: DeviceRows
    rows: slice
    pieces: int = 1

    @property
    def is_empty(self) -> bool:
        """Whether it has no row, and is there for the collectives only."""
        return bool(self.rows.start == self.rows.stop)


@dataclass(frozen=True)
class Passes:
    """Runs forward and backward passes.

    Attributes:
        model: module that sums the objective's terms over rows.
        weighing: the weights of the terms.
        scaler: scaler of the loss in fp16, else None.
        width: samples that a pass is filled up to with blank ones; 1 where it needs none.
        expert_bias: counts loads of experts; None if biases don't move.
    """

    model: nn.Module
    weighing: Weighing
    scaler: GradScaler | None
    width: int
    expert_bias: ExpertBias | None

    def forward(self, one: Pass) -> Tensor:
        """The sums of the terms over a pass, shape (terms,)."""
        width = self.width * one.pieces
        with self._counting(one.rows, width), no_fallback():
            sums: Tensor = self.model(*one.inputs.rows(one.rows, width))
        return sums

    def backward(self, sums: Tensor, weights: Tensor, ranks: int) -> None:
        """Compute the gradient of a pass's part of the loss.

        Args:
            sums: the pass's sums, shape (terms,).
            weights: weights of the terms over the global batch, shape (terms,).
            ranks: number of ranks over which gradients are averaged; 1 where they are summed.
        """
        loss = self.weighing.for_backward(sums, weights, ranks)
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def _counting(self, rows: slice, width: int) -> AbstractContextManager[Any]:
        """In it, a forward pass of some rows counts loads of experts, if biases move by them."""
        if self.expert_bias is None:
            return nullcontext()
        return self.expert_bias.counting(rows.stop - rows.start, width)


def seed(device: torch.device, words: Sequence[int]) -> None:
    """Make random numbers (dropout) on a device a function of `words`: no state to save."""
    drawn = np.random.SeedSequence(words).generate_state(1, np.uint64)
    number = int(drawn[0] >> 1)
    # Not `torch.manual_seed`: it takes a stack trace for each kind of device that is not there.
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
