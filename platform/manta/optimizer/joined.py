"""Several optimizers of one model's weights as one, with one state and one list of groups.

So a checkpoint, a snapshot and the engine know one optimizer, whatever updates it consists of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from manta.optimizer.orders import ATTRIBUTES


class JoinedOptimizer(Optimizer):
    """Optimizers that each update other weights.

    Args:
        parts: the optimizers; none has a state yet. Those that are joined step only through this.
    """

    def __init__(self, parts: Sequence[Optimizer]):
        self._parts: Sequence[Optimizer] = ()
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        self._step_supports_amp_scaling = all(
            getattr(part, "_step_supports_amp_scaling", False) for part in parts
        )
        self._join()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._join()

    def _join(self) -> None:
        """Have the parts use this state and these groups, which are other objects after a load."""
        first = 0
        for part in self._parts:
            last = first + len(part.param_groups)
            part.state, part.param_groups = self.state, self.param_groups[first:last]
            first = last

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all weights. `closure` must be None."""
        assert closure is None
        for part in self._parts:
            for name in ATTRIBUTES:
                setattr(part, name, getattr(self, name, None))
            part.step()
