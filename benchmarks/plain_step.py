"""The step that a person would write, which benchmarks compare with."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward


def plain_step(
    model: Any,
    optimizer: torch.optim.Optimizer,
    rows: np.ndarray,
    *,
    accumulate: int = 1,
    bf16: bool = False,
) -> torch.Tensor:
    """Forward, backward, clip, update; returns the loss, not read yet.

    Args:
        model: of Transformers, bare or in DDP.
        optimizer: of its parameters.
        rows: tokens, samples × sequence length.
        accumulate: equal micro-batches to cut the rows into.
        bf16: whether the forward pass is in bf16 by autocast.
    """
    inputs = torch.from_numpy(rows.astype(np.int64))
    total = torch.zeros(())
    micro_batches = inputs.chunk(accumulate)
    for index, micro in enumerate(micro_batches):
        alone = index < len(micro_batches) - 1 and hasattr(model, "no_sync")
        with model.no_sync() if alone else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = token_loss(model, micro) / accumulate
            loss.backward()
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def token_loss(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next tokens, in nats."""
    logits = model(input_ids=tokens, use_cache=False).logits
    # Labels are moved, not logits: `logits[:, :-1]` would be one more copy of all of them.
    labels = F.pad(tokens[:, 1:], (0, 1), value=-100)
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def attend_in_float32(model: PreTrainedModel) -> None:
    """Keep a causal model's attention out of autocast: on a CPU that is faster (`attention.py`)."""

    def forward(module: Any, *inputs: torch.Tensor, **options: Any) -> tuple[torch.Tensor, None]:
        with torch.autocast("cpu", enabled=False):
            wide = (one.float() for one in inputs[:3])
            output, _ = sdpa_attention_forward(module, *wide, *inputs[3:], **options)
        return output, None

    AttentionInterface.register("sdpa_wide", forward)
    model.set_attn_implementation("sdpa_wide")
