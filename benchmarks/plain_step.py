"""The step that a person would write, which benchmarks compare with: part of two of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def plain_step(model: Any, optimizer: torch.optim.Optimizer, rows: np.ndarray) -> torch.Tensor:
    """Forward, backward, clip, update; returns the loss, not read yet.

    Args:
        model: of Transformers, bare or in DDP.
        optimizer: of its parameters.
        rows: tokens, samples × sequence length.
    """
    inputs = torch.from_numpy(rows.astype(np.int64))
    logits = model(input_ids=inputs, use_cache=False).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), inputs[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss
