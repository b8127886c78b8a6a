"""A step's sums and gradients over forward passes and ranks, as ranks share the rows evenly.

The same to the bit for the same number of ranks; `train/exact_step.py` has those for any number.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from manta.config.run import RunConfig
from manta.objective.protocol import Objective
from manta.sample.tokens import in_pieces
from manta.schedule.lengths import Lengths
from manta.state.trained import Trained
from manta.stream.plan import RankBatch
from manta.train.first_pass import measured, unmeasured
from manta.train.microbatch import largest_slice, micro_slices, micro_steps
from manta.train.passes import Pass, Passes, seed


class StepSums(Protocol):
    """What the passes of a step add up to. All ranks must call together."""

    def largest_pass(self, batch_size: int) -> int:
        """Rows of the largest forward pass of a step, over all ranks, without blank ones."""
        ...

    def passes(self, batch: RankBatch) -> list[Pass]:
        """This rank's forward passes of a step."""
        ...

    def counted(self, batch: RankBatch, passes: Sequence[Pass]) -> Tensor:
        """What this rank knows of the terms' weights, to be summed over ranks; one axis."""
        ...

    def weights(self, summed: Tensor) -> Tensor:
        """The terms' weights over the global batch, shape (terms,), from what was summed."""
        ...

    def accumulate(
        self, batch: RankBatch, passes: Sequence[Pass], weights: Tensor, *, probes: bool = False
    ) -> Tensor:
        """Compute all passes; the gradient of the step is then in the trained weights.

        Args:
            batch: this rank's rows.
            passes: this rank's forward passes.
            weights: the terms' weights over the global batch.
            probes: whether to measure the gradient of the first pass, for `probe`, if that is free.

        Returns:
            The sums of the terms, shape (terms,); over ranks they add up to the step's.
        """
        ...

    @property
    def probe(self) -> Tensor:
        """What `train/first_pass.py` has of this rank's first pass of the last step, (3,)."""
        ...

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The L2 norm of the gradient of the step, scalar."""
        ...

    def shared(self, values: Tensor) -> Tensor:
        """The same values on all ranks.

        Args:
            values: this rank's part of the loss, and the gradient's norm, float64 (2,).
        """
        ...


class SumsByRank:
    """Sums in which each rank adds up its share of the rows, and DDP or FSDP2 the ranks.

    Args:
        config: the run.
        objective: the objective that is trained on.
        computing: runs the passes.
        trained: model and optimizer, whose weights get the gradient.
        accelerator: this rank's accelerator.
        lengths: lengths of the rows that the model sees.
        most_rows: most rows of a forward pass.
        exchanges: whether ranks exchange whole gradients, by DDP.
    """

    def __init__(
        self,
        config: RunConfig,
        objective: Objective,
        computing: Passes,
        trained: Trained,
        accelerator: Accelerator,
        *,
        lengths: Lengths,
        most_rows: int,
        exchanges: bool,
    ):
        self._seed, self._objective, self._computing = config.run.seed, objective, computing
        self._lengths = lengths
        self._trained, self._ranks = trained, trained.ranks
        self._accelerator, self._exchanges = accelerator, exchanges
        self._most_rows = most_rows
        self._probe: Tensor | None = None

    def largest_pass(self, batch_size: int) -> int:
        return largest_slice(batch_size, self._ranks.world_size, self._most_rows)

    def passes(self, batch: RankBatch) -> list[Pass]:
        pieces = self._lengths.pieces_at(batch.step.tokens)
        samples = in_pieces(batch.samples, pieces)
        inputs = self._objective.inputs(samples, self._ranks.device)
        count = micro_steps(batch.step.batch_size, self._ranks.world_size, self._most_rows)
        return [
            Pass(inputs, slice(rows.start * pieces, rows.stop * pieces), pieces)
            for rows in micro_slices(len(batch.ids), count)
        ]

    def counted(self, batch: RankBatch, passes: Sequence[Pass]) -> Tensor:
        return self._objective.weights(passes[0].inputs)

    def weights(self, summed: Tensor) -> Tensor:
        return summed

    def accumulate(
        self, batch: RankBatch, passes: Sequence[Pass], weights: Tensor, *, probes: bool = False
    ) -> Tensor:
        """Ranks that hold the whole model exchange gradients with the last pass.

        A sharded one exchanges in each, as its ranks would hold whole gradients until the last.
        A rank without rows in a pass joins the collectives with an empty contribution.
        """
        seed(self._ranks.device, [self._seed, batch.step.number, self._ranks.rank])
        sums = torch.zeros(weights.shape, device=self._ranks.device)
        sharded, rounded = self._trained.sharded, self._trained.rounded
        for index, one in enumerate(passes):
            last = index == len(passes) - 1
            if rounded:
                rounded.exchanging = last and self._exchanges
            self._trained.sum_over_copies(last)
            if one.is_empty and not (last or sharded):
                continue
            model = self._computing.model
            with nullcontext() if last or sharded else self._accelerator.no_sync(model):
                micro = self._computing.forward(one)
                sums += micro.detach()
                self._computing.backward(micro, weights, self._ranks.world_size)
            if not index:
                self._probe = self._probed(batch, one) if probes and not last else None
        if rounded:
            rounded.clear()
        return sums

    def _probed(self, batch: RankBatch, one: Pass) -> Tensor | None:
        """The gradient of the first pass, where it is in the trained weights as it is."""
        trained = self._trained
        if one.is_empty or trained.sharded or trained.rounded or trained.scaler:
            return None
        rows = (one.rows.stop - one.rows.start) // one.pieces
        parameters = trained.lm.parameters()
        return measured(parameters, rows, batch.step.batch_size, self._ranks.world_size)

    @property
    def probe(self) -> Tensor:
        return unmeasured(self._ranks.device) if self._probe is None else self._probe

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return norm.full_tensor() if self._trained.sharded else norm  # type: ignore[attr-defined]

    def shared(self, values: Tensor) -> Tensor:
        # Ranks on unlike devices may differ in the last bit of the norm: their mean is one.
        values[1] /= self._ranks.world_size
        return self._ranks.sum(values)
