"""Values on their way from a device to the host, which goes on meanwhile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Arriving:
    """The values of a tensor, for when the host wants them.

    The copy is queued at once: one that is asked for later waits in the device's stream for
    all that was queued before it, however long the values have been computed.
    """

    def __init__(self, values: Tensor):
        self._arrived: torch.cuda.Event | None = None
        self._values = values.to("cpu", non_blocking=True)  # of a GPU's: into pinned memory
        if values.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> list[Any]:
        """The values; waits for what computed them, and for nothing that was queued after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()
