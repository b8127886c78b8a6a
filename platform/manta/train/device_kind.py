"""What a rank computes on, as far as it decides how sums are rounded."""

from __future__ import annotations

import logging

import torch

from manta.parallel.ranks import Ranks
from manta.record.provenance import cpu_model

log = logging.getLogger(__name__)


def device_kind(device: torch.device) -> str:
    """The name of a device: of a GPU, or of a processor and the instructions that Torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_model() or 'unknown processor'}, {torch.backends.cpu.get_cpu_capability()}"


def warn_of_unlike(ranks: Ranks) -> None:
    """Warn if ranks compute on devices of different kinds. All ranks must call together."""
    kinds = ranks.named(device_kind(ranks.device))
    other = next((rank for rank, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None and ranks.first:
        log.warning(
            "train.reproducible needs devices of one kind, but rank 0 has %s and rank %d %s: "
            "weights may differ in rounding from those of another group",
            kinds[0],
            other,
            kinds[other],
        )
