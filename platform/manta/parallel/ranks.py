"""The ranks of a group, and what they tell each other.

The training stack exchanges numbers through this module alone, so that it works with one rank,
without `torch.distributed`, as with many.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
NAME_BYTES = 64
# How long ranks wait for each other in an exchange. Who hangs is found by the watchdog: Torch's own
# limits, 10 minutes for NCCL, would end ranks that wait for one that compiles or writes.
EXCHANGE_LIMIT = timedelta(days=1)


class Ranks:
    """This process among the ranks that train together. All ranks must make the same calls.

    Attributes:
        rank: number of this one, from 0.
        world_size: how many there are.
        device: where tensors are exchanged.
    """

    def __init__(self, device: torch.device):
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.device = device

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes what all have in common."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """`value` summed over ranks, in place; exact for integers."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank. Waits for the device."""
        return bool(self.sum(torch.tensor(int(flag), device=self.device)).item())

    def gathered(self, value: Tensor) -> Tensor:
        """`value` of every rank, by rank: shape (world_size, *value.shape)."""
        table = value.new_zeros((self.world_size, *value.shape))
        table[self.rank] = value
        return self.sum(table)

    def named(self, name: str) -> list[str]:
        """The name that each rank gave, cut to NAME_BYTES."""
        letters = name.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0")
        table = self.gathered(torch.tensor(list(letters), device=self.device))
        return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in table.tolist()]

    def agreed(self, value: T, source: int = 0) -> T:
        """One rank's value, on all ranks; by default the first rank's."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=source, device=self.device)
        return box[0]

    def give(self, tensor: Tensor, source: int) -> None:
        """Overwrite a tensor, in place, by what the rank `source` has in it."""
        if self.world_size > 1:
            dist.broadcast(tensor, src=source)


def is_severed(error: BaseException) -> bool:
    """Whether an exchange failed because another rank's process is gone.

    Gloo raises a RuntimeError whose text alone tells; tests/train/test_in_place.py guards it.
    """
    return isinstance(error, RuntimeError) and "gloo/transport" in str(error)


class BackgroundRanks:
    """The same ranks for threads beside training, whose exchanges theirs must not meet.

    Attributes:
        group: the process group, on the hosts' CPUs; None for a lone rank without one.
    """

    def __init__(self, ranks: Ranks):
        self._ranks = ranks
        self.group = _background_group() if dist.is_initialized() else None

    def agreed(self, value: T) -> T:
        """The first rank's value, on all ranks."""
        if self.group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def first_of(self, problem: str | None) -> str | None:
        """What went wrong on any rank, on all of them."""
        if self.group is None:
            return problem
        problems: list[str | None] = [None] * self._ranks.world_size
        dist.all_gather_object(problems, problem, group=self.group)
        return next((found for found in problems if found), None)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.group is not None:
            dist.barrier(self.group)


def _background_group() -> dist.ProcessGroup:
    everyone = dist.group.WORLD
    assert everyone is not None
    if everyone.size() == 1 and dist.get_backend() == "gloo":
        # Alone there are no others to meet, and each group of Gloo's wakes 100 times a second.
        return everyone
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=EXCHANGE_LIMIT))
