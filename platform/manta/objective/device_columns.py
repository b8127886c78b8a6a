"""Columns of numbers as an objective's rows on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from manta.config.errors import ConfigError
from manta.parallel.host_to_device import to_device
from manta.sample.columns import Columns, Ragged


@dataclass(frozen=True)
class DeviceColumns:
    """A rank's rows of a step, for objectives that take columns as they are.

    Attributes:
        tensors: a column each, the first axis rows.
        counted: 1 for each row, float32 (rows,). A blank row, of zeros, has 0 there: by it a sum
            over rows leaves blank ones out.
    """

    tensors: tuple[Tensor, ...]
    counted: Tensor

    @classmethod
    def of(cls, batch: Columns, names: Sequence[str], device: torch.device) -> DeviceColumns:
        """Some columns of a batch on a device, in this order.

        Raises:
            ConfigError: if a sample has a list of its own length in one of them.
        """
        if ragged := [name for name in names if isinstance(batch[name], Ragged)]:
            raise ConfigError(
                f"DeviceColumns: {', '.join(ragged)}: each sample has a list of its own length, "
                "which makes no tensor; pad or cut the lists in the objective's inputs()"
            )
        tensors = tuple(torch.from_numpy(batch[name].copy()) for name in names)
        counted = torch.ones(len(tensors[0]))
        moved = tuple(to_device(tensor, device) for tensor in tensors)
        return cls(moved, to_device(counted, device))

    def __len__(self) -> int:
        return len(self.counted)

    def rows(self, rows: slice, width: int = 1) -> tuple[Tensor, ...]:
        """The columns and `counted` of some rows, with blank ones up to `width`."""
        taken = [tensor[rows] for tensor in (*self.tensors, self.counted)]
        blank = max(0, width - len(taken[-1]))
        return tuple(F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, blank)) for tensor in taken)
