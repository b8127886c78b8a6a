"""The fingerprint of a base: the frozen weights beside which others are trained.

No checkpoint holds them; by the fingerprint it is told whether they have changed.

It is a sum over elements: ranks that hold parts of a tensor sum theirs, however it is split, and
each part is read where it lies, on the device. It finds a change by mistake; unlike a SHA-256 it
does not resist an attack.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from manta.model.trainable import base_weights
from manta.parallel.ranks import Ranks
from manta.parallel.sharding import in_first_copy
from manta.state.tensor_layout import piece

# Elements at a time: what is computed of them takes some eight times their memory.
CHUNK = 1 << 22
# An odd number whose multiples modulo 2^64 are spread evenly (2^64 over the golden ratio).
SPREAD = 0x9E3779B97F4A7C15 - (1 << 64)
INTEGERS = {4: torch.int32, 2: torch.int16, 1: torch.int8}


@torch.no_grad()
def fingerprint_of_base(lm: nn.Module, ranks: Ranks | None = None) -> int:
    """Sum of each bit pattern times a number made from its name and place, modulo 2^63.

    The same for the same weights however they are split. All ranks must call together.

    Args:
        lm: the model, with memory, split over ranks or not.
        ranks: the ranks that hold parts of it; None if this process has it all.
    """
    whole, parts = 0, None
    for name, parameter in base_weights(lm).items():
        one = piece(name, parameter)
        width = max(1, one.local[:1].numel())
        found = _sum(one.local, name, one.first * width)
        if isinstance(parameter, DTensor):
            found *= in_first_copy(parameter)  # each part counts once
            parts = found if parts is None else parts + found
        else:
            whole += int(found)
    if parts is not None and ranks is not None:
        whole += int(ranks.sum(parts.reshape(1)))
    return whole % (1 << 63)


def _sum(values: Tensor, name: str, first: int) -> Tensor:
    """That of some elements of a tensor, which begin with its element `first`; int64 scalar."""
    flat = values.contiguous().flatten().view(INTEGERS[values.element_size()])
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, len(flat), CHUNK):
        few = flat[start : start + CHUNK].long()
        place = torch.arange(first + start, first + start + len(few), device=flat.device)
        factor = place.mul_(SPREAD).add_(seed)
        factor.bitwise_xor_(factor >> 29).mul_(SPREAD)
        total += (few * factor).sum()
    return total
