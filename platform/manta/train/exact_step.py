"""A step's sums and gradients that are the same to the bit for any number of ranks.

The global batch is cut into micro-batches by the config alone. Each is computed whole by one rank,
with random numbers that follow from the step and the micro-batch, and all that is summed over
micro-batches is summed exactly (`parallel/exact_sum.py`) or in one order.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manta.config.errors import ConfigError
from manta.config.run import RunConfig
from manta.objective.protocol import Objective
from manta.optimizer.orders import local
from manta.parallel.exact_gradients import ExactGradients
from manta.parallel.exact_sum import Grid
from manta.parallel.mesh import mesh_of
from manta.sample.columns import sliced
from manta.sample.tokens import in_pieces
from manta.schedule.lengths import Lengths
from manta.state.trained import Trained
from manta.stream.plan import RankBatch
from manta.train.first_pass import unmeasured
from manta.train.passes import Pass, Passes, seed

# Elements that a CPU computes together: Torch's optimizers round those left over at the end of a
# tensor in another way.
TOGETHER = 16


def prepare(lm: nn.Module, config: RunConfig, device: torch.device) -> None:
    """Have a device compute the same each time; refuse a model that it can't be had for.

    Args:
        lm: the model, before it is sharded.
        config: the run.
        device: this rank's device.

    Raises:
        ConfigError: if a CPU would round some weights of a sharded model by where they are cut.
    """
    if device.type == "cuda":
        # Read when the first matrix product makes its handle (Torch's notes on reproducibility).
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    elif config.parallel.shard:
        sizes = range(max(2, config.scaling.min), config.scaling.upper + 1)
        shards = {mesh_of(config.parallel.shard, size).shards for size in sizes}
        _refuse_ragged_parts(lm, sorted(shards))


def _refuse_ragged_parts(lm: nn.Module, ranks: Sequence[int]) -> None:
    for name, weight in lm.named_parameters():
        for count in ranks:
            part = -(-len(weight) // count) * (weight.numel() // len(weight))
            if weight.requires_grad and count > 1 and part % TOGETHER:
                raise ConfigError(
                    f"parallel.shard with train.reproducible on a CPU: {count} workers would have "
                    f"{part} elements each of {name}, and the optimizer rounds them alike only in "
                    f"multiples of {TOGETHER}: leave parallel.shard out, or take other sizes or "
                    "numbers of workers"
                )


class ExactSums:
    """Sums by micro-batch.

    Args:
        config: the run.
        objective: the objective that is trained on.
        computing: runs the passes.
        trained: model and optimizer, whose weights get the gradient.
        gradients: sums the gradients.
        grid: the grid of the gradient's norm.
        lengths: lengths of the rows that the model sees.
    """

    def __init__(
        self,
        config: RunConfig,
        objective: Objective,
        computing: Passes,
        trained: Trained,
        gradients: ExactGradients,
        grid: Grid,
        lengths: Lengths,
    ):
        self._seed, self._size = config.run.seed, config.train.micro_batch
        self._lengths = lengths
        self._objective, self._computing = objective, computing
        self._trained, self._ranks = trained, trained.ranks
        self._gradients, self._grid = gradients, grid

    def largest_pass(self, batch_size: int) -> int:
        return min(batch_size, self._size)

    def passes(self, batch: RankBatch) -> list[Pass]:
        """One for each micro-batch of this rank.

        A sharded model gathers in each, so its ranks make the same number of passes.
        """
        passes = [
            self._pass(batch, slice(first, min(first + self._size, len(batch.ids))))
            for first in range(0, len(batch.ids), self._size)
        ]
        if self._trained.sharded:
            most = -(-self._count(batch) // self._ranks.world_size)
            passes += [self._pass(batch, slice(0, 0)) for _ in range(most - len(passes))]
        return passes

    def _pass(self, batch: RankBatch, rows: slice) -> Pass:
        # Made of its rows alone: what they are filled up to may depend on the rows beside them.
        pieces = self._lengths.pieces_at(batch.step.tokens)
        samples = in_pieces(sliced(batch.samples, rows), pieces)
        inputs = self._objective.inputs(samples, self._ranks.device)
        return Pass(inputs, slice(0, (rows.stop - rows.start) * pieces), pieces)

    def _count(self, batch: RankBatch) -> int:
        """How many micro-batches a step has."""
        return -(-batch.step.batch_size // self._size)

    def _first(self, batch: RankBatch) -> int:
        """The number of this rank's first micro-batch in a step."""
        return self._count(batch) * self._ranks.rank // self._ranks.world_size

    def _table(self, batch: RankBatch, rows: Sequence[Tensor]) -> Tensor:
        """A row for each micro-batch of the step, float64 (micro-batches, terms).

        Those of other ranks are 0, so that summed over ranks they are exact.
        """
        terms = len(self._objective.terms)
        device = self._ranks.device
        table = torch.zeros((self._count(batch), terms), dtype=torch.float64, device=device)
        if rows:
            first = self._first(batch)
            table[first : first + len(rows)] = torch.stack(list(rows))
        return table

    def counted(self, batch: RankBatch, passes: Sequence[Pass]) -> Tensor:
        counts = [self._objective.weights(one.inputs) for one in passes if not one.is_empty]
        return self._table(batch, counts).flatten()

    def weights(self, summed: Tensor) -> Tensor:
        return summed.view(-1, len(self._objective.terms)).sum(0)

    def accumulate(
        self, batch: RankBatch, passes: Sequence[Pass], weights: Tensor, *, probes: bool = False
    ) -> Tensor:
        """Each rank has an exact gradient of its micro-batches; they are summed exactly, too.

        The sums are all the first rank's, added by micro-batch, so that no other order is possible.
        """
        self._gradients.begin(self._count(batch))
        first = self._first(batch)
        sums = []
        for index, one in enumerate(passes):
            if index == len(passes) - 1:
                self._gradients.last_pass()
            self._trained.sum_over_copies(index == len(passes) - 1)
            seed(self._ranks.device, [self._seed, batch.step.number, first + index])
            micro = self._computing.forward(one)
            if not one.is_empty:
                sums.append(micro.detach())
            self._computing.backward(micro, weights, ranks=1)
        self._gradients.end()
        total = self._ranks.sum(self._table(batch, sums)).sum(0)
        return total if self._ranks.first else torch.zeros_like(total)

    @property
    def probe(self) -> Tensor:
        return unmeasured(self._ranks.device)  # gradients of passes are summed as whole numbers

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        mesh = self._trained.mesh
        ranks = self._ranks if mesh is not None else None
        speaks = mesh is None or mesh.holds_first_copy(self._ranks.rank)
        parts = [local(p.grad) for p in parameters if speaks and p.grad is not None]
        return self._grid.norm(parts, sum(p.numel() for p in parameters), ranks)

    def shared(self, values: Tensor) -> Tensor:
        # All ranks have the same norm, and the first one has the loss.
        return self._ranks.sum(values if self._ranks.first else torch.zeros_like(values))
