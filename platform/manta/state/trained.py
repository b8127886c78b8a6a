"""What a run trains, as one rank holds it: all that a checkpoint or a snapshot saves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from manta.optimizer.averaging import has_average, swapped
from manta.optimizer.orders import local
from manta.parallel.masters import RoundedWeights
from manta.parallel.mesh import ShardMesh
from manta.parallel.ranks import Ranks
from manta.parallel.sharding import reshard


@dataclass(frozen=True)
class Trained:
    """Model, optimizer and loss scaler on one rank.

    Attributes:
        lm: the model, under the names that are saved; its tensors may be parts (DTensor).
        optimizer: optimizer of the model's parameters.
        scaler: loss scaler in fp16, else None.
        mesh: how ranks share the model where each holds a part of each tensor; None: each has all.
        ranks: the ranks that train the model together.
        rounded: low-precision copy that computes in the model's place, if any; not saved.
        base: fingerprint of the base, the frozen weights, which are not saved: each start takes
            them from where the run took them first. None where all weights are saved.
        any_base: whether a state may be loaded that was trained beside another base.
    """

    lm: nn.Module
    optimizer: Optimizer
    scaler: GradScaler | None
    mesh: ShardMesh | None
    ranks: Ranks
    rounded: RoundedWeights | None = None
    base: int | None = None
    any_base: bool = False

    @property
    def sharded(self) -> bool:
        """Whether this rank holds a part of each tensor."""
        return self.mesh is not None

    def sum_over_copies(self, now: bool) -> None:
        """Have backward passes from now on sum gradients over copies of a split model, or not."""
        if self.mesh is not None and self.mesh.replicas > 1:
            assert isinstance(self.lm, FSDPModule)
            self.lm.set_requires_all_reduce(now)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that are saved, by name."""
        for name, parameter in self.lm.named_parameters():
            if self.base is None or parameter.requires_grad:
                yield name, parameter

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether all weights that are trained are finite. All ranks must call together."""
        parts = [local(weight) for weight in self.lm.parameters() if weight.requires_grad]
        # The largest size of an element: unlike a sum of squares it overflows for no finite ones.
        sizes = [torch.linalg.vector_norm(one, torch.inf).float() for one in parts if one.numel()]
        mine = not sizes or bool(torch.stack(sizes).isfinite().all())
        return not self.ranks.any(not mine)

    @property
    def has_average(self) -> bool:
        """Whether the weights have an average by now."""
        return has_average(self.optimizer)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In it, the model has the average of its weights; all ranks must enter together."""
        if self.ranks.device.type == "cuda":
            # A snapshot may be copied beside training, from weights that are about to change.
            torch.cuda.synchronize(self.ranks.device)
        try:
            with swapped(self.optimizer):
                self._used_anew()
                yield
        finally:
            self._used_anew()

    def _used_anew(self) -> None:
        if self.sharded:
            reshard(self.lm)
        self.weights_changed()

    def weights_changed(self) -> None:
        """Have the weights of `lm` used as they are now. For whoever has changed them."""
        if self.rounded:
            self.rounded.refresh()
