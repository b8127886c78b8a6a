"""The gradient of each rank's first pass, as beside that of the whole batch it tells the noise.

A step of several passes adds its gradients up, so that after the first one the gradient of a small
batch is there, and its norm costs one more read of it. Only steps whose row is logged measure it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

# Numbers of a rank: whether it measured; the squared norm; 1 / the samples of the pass.
NUMBERS = 3


def unmeasured(device: torch.device) -> Tensor:
    """The numbers of a rank that measured nothing, float32 (3,)."""
    return torch.zeros(NUMBERS, device=device)


def measured(parameters: Iterable[nn.Parameter], rows: int, batch: int, ranks: int) -> Tensor:
    """The numbers of a rank after its first pass, float32 (3,).

    Args:
        parameters: the trained weights, with the gradient of the pass: its part of the loss of the
            batch, times the number of ranks.
        rows: samples of the pass.
        batch: samples of the step.
        ranks: number of ranks.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    # The mean over the samples of the pass, where the part has the divisor of the whole batch.
    squared = (norm * (batch / (rows * ranks))) ** 2
    # Filled on the device: a copy from the host would make the host wait for it.
    one, inverse = torch.ones_like(squared), torch.full_like(squared, 1.0 / rows)
    return torch.stack([one, squared, inverse]).float()


def as_row(ranks: Sequence[Sequence[float]]) -> dict[str, float]:
    """Metrics of a row by the numbers of all ranks; none where no rank measured."""
    found = [numbers for numbers in ranks if numbers[0]]
    if not found:
        return {}
    squared = sum(numbers[1] for numbers in found) / len(found)
    inverse = sum(numbers[2] for numbers in found) / len(found)
    return {"grad_norm_pass": squared**0.5, "pass_samples": 1 / inverse}
