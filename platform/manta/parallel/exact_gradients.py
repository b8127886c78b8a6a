"""The gradient of a step as an exact sum over forward passes and ranks.

In place of DDP for ranks that hold the whole model, and of FSDP2's own sum for those that hold
parts of it. What is sent is float64, twice the bytes of float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter

from manta.parallel.exact_sum import Grid
from manta.parallel.ranks import Ranks
from manta.parallel.sharding import copies_of

# Elements that ranks exchange at a time, in float64: 32 MiB.
BUCKET = 2**22


class ExactGradients(Protocol):
    """Sums the gradients of a step's backward passes over passes and ranks."""

    def begin(self, passes: int) -> None:
        """Begin a step of so many forward passes, over all ranks."""
        ...

    def last_pass(self) -> None:
        """The next backward pass is this rank's last one."""
        ...

    def end(self) -> None:
        """Make the sums the gradients that the optimizer applies. All ranks must call together.

        A gradient is NaN where a pass had an element that is not finite or too large for the grid.
        """
        ...


class _Extremes:
    """Tells whether any summand of a step was not finite, or too large for exact sums."""

    def __init__(self, grid: Grid):
        self._grid = grid

    def begin(self, passes: int) -> None:
        self._most, self._seen = self._grid.limit / max(1, passes), list[Tensor]()

    def look(self, summands: Tensor) -> None:
        if summands.numel():
            self._seen.extend(torch.aminmax(summands))

    def spoil(self, totals: Tensor) -> None:
        """Make one of the totals, float64 of one axis, NaN if a summand was too large."""
        if self._seen:
            fits = torch.stack(self._seen).abs().max() <= self._most
            totals[-1] += torch.where(fits, 0.0, math.nan)


class WholeGradients:
    """Of ranks that each hold the whole model.

    Buckets of gradients are exchanged while the last backward pass goes on. A weight that no
    forward pass used has the gradient 0.

    Attributes:
        ranks: over whom gradients are summed.

    Args:
        weights: pairs of a weight whose gradient backward passes compute, and the one that is
            trained, which may be the same.
        ranks: over whom gradients are summed.
        grid: the grid of the sums.
    """

    def __init__(
        self, weights: Sequence[tuple[nn.Parameter, nn.Parameter]], ranks: Ranks, grid: Grid
    ):
        self.ranks, self._grid = ranks, grid
        # In the order in which a backward pass comes to them, more or less.
        self._weights = list(reversed(weights))
        sizes = [trained.numel() for _, trained in self._weights]
        device = ranks.device
        self._totals = torch.empty(sum(sizes), dtype=torch.float64, device=device)
        self._gradients = torch.empty(sum(sizes), dtype=torch.float32, device=device)
        self._views = [
            part.view_as(trained)
            for (_, trained), part in zip(
                self._weights, torch.split(self._gradients, sizes), strict=True
            )
        ]
        self._parts = dict(
            zip((own for own, _ in self._weights), torch.split(self._totals, sizes), strict=True)
        )
        self._buckets = _buckets(sizes)
        self._bucket_of = {
            own: index
            for index, bucket in enumerate(self._buckets)
            for own, _ in self._weights[bucket]
        }
        self._ends = list(accumulate(sizes, initial=0))
        self._extremes = _Extremes(grid)
        self._works: list[Any] = []
        for own, _ in self._weights:
            own.register_post_accumulate_grad_hook(self._collect)  # type: ignore[no-untyped-call]

    def begin(self, passes: int) -> None:
        self._grid.clear(self._totals)
        self._extremes.begin(passes)
        self._last, self._sent = False, 0
        self._missing = [bucket.stop - bucket.start for bucket in self._buckets]
        self._works = []

    def last_pass(self) -> None:
        self._last = True

    def _collect(self, weight: nn.Parameter) -> None:
        """Add the gradient of a weight that a backward pass has just computed."""
        assert weight.grad is not None
        bucket = self._bucket_of[weight]
        assert bucket >= self._sent, "a weight's gradient came twice in a backward pass"
        self._extremes.look(weight.grad)
        self._grid.add(self._parts[weight], weight.grad.view(-1))
        weight.grad = None
        if self._last:
            self._missing[bucket] -= 1
            # In order, and the last one at the end, when it is known whether the step fits.
            while self._sent < len(self._buckets) - 1 and not self._missing[self._sent]:
                self._send()

    def _send(self) -> None:
        bucket = self._buckets[self._sent]
        self._sent += 1
        totals = self._totals[self._ends[bucket.start] : self._ends[bucket.stop]]
        self._grid.end(totals)
        if self._sent == len(self._buckets):
            self._extremes.spoil(totals)
        if self.ranks.world_size > 1:
            self._works.append(dist.all_reduce(totals, async_op=True))

    def end(self) -> None:
        while self._sent < len(self._buckets):
            self._send()
        for work in self._works:
            work.wait()
        self.abandon()
        self._gradients.copy_(self._totals)
        for (_, trained), gradient in zip(self._weights, self._views, strict=True):
            trained.grad = gradient

    def abandon(self) -> None:
        """Let go of all exchanges, and so of the process group."""
        self._works = []


def _buckets(sizes: Sequence[int]) -> list[slice]:
    """Consecutive weights, as indices, of up to BUCKET elements together, or one larger one."""
    buckets, first, held = [], 0, 0
    for index, size in enumerate(sizes):
        if held and held + size > BUCKET:
            buckets.append(slice(first, index))
            first, held = index, 0
        held += size
    return [*buckets, slice(first, len(sizes))]


class ShardedGradients:
    """Of ranks that hold a model's parts by FSDP2, which sums gradients after each pass.

    Args:
        lm: the sharded model.
        grid: the grid of the sums.
    """

    def __init__(self, lm: nn.Module, grid: Grid):
        self._sums, copies = [], copies_of(lm)
        for module in lm.modules():
            if isinstance(module, FSDPModule):
                self._sums.append(_ExactReduceScatter(grid, copies))
                module.set_custom_reduce_scatter(self._sums[-1])
                if copies is not None:
                    module.set_all_reduce_hook(self._sums[-1].after_copies)

    def begin(self, passes: int) -> None:
        for each in self._sums:
            each.begin(passes)

    def last_pass(self) -> None:
        for each in self._sums:
            each.last = True

    def end(self) -> None:
        """Nothing: FSDP2 has given the sums to the weights after the last pass."""


class _ExactReduceScatter(ReduceScatter):
    """Sums the gradients of one FSDP2 unit over passes; ranks get their parts with the last one.

    `ReduceScatter` is the type that FSDP2's public `set_custom_reduce_scatter` takes; that it is
    called once a pass with all gradients of the unit is internal to Torch 2.13, and guarded by
    tests/train/test_reproducible.py.
    """

    def __init__(self, grid: Grid, copies: dist.ProcessGroup | None):
        self._grid, self._extremes, self._copies = grid, _Extremes(grid), copies
        self.begin(1)

    def begin(self, passes: int) -> None:
        self.last = False
        self._totals: Tensor | None = None
        self._extremes.begin(passes)

    def allocate(
        self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """A buffer of the gradients that go in, or of the part that comes out."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """Add a pass's gradients; `output_tensor` is 0 until the last pass, and then the sum.

        Args:
            output_tensor: this rank's part, shape (elements / ranks,).
            input_tensor: gradients of this rank's pass, shape (elements,).
            group: the ranks.
            op: ignored: always a sum.
            async_op: must be False.
        """
        assert not async_op
        if self._totals is None:
            self._totals = torch.zeros_like(output_tensor, dtype=torch.float64)
        self._extremes.look(input_tensor)
        summands = self._grid.rounded(input_tensor)
        if self.last:
            self._extremes.spoil(summands)
        part = torch.empty_like(self._totals)
        dist.reduce_scatter_single(part, summands, group=group)
        self._totals += part
        # Copies of the model are summed here, as FSDP2 would round their sums; it sums zeros then.
        if self.last and self._copies is not None:
            dist.all_reduce(self._totals, group=self._copies)
        alone = self.last and self._copies is None
        output_tensor.copy_(self._totals) if alone else output_tensor.zero_()

    def after_copies(self, part: Tensor) -> None:
        """Make `part`, for which FSDP2 has summed zeros over copies, the sum of all passes."""
        if self.last:
            assert self._totals is not None
            part.copy_(self._totals)
