"""AdamW with its parameter groups. The learning rate is set from outside at each step."""

from __future__ import annotations

import torch
from torch import nn

from manta.config.train import OptimizerSection

FUSED_DEVICES = {"cpu", "cuda", "xpu", "mps"}


def build(section: OptimizerSection, model: nn.Module) -> torch.optim.AdamW:
    """AdamW over `model`: matrices decay; norms, biases and embeddings don't, unless asked."""
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim >= 2 and id(parameter) not in embeddings
        (decayed if matrix or section.decay_all else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": section.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=section.betas,
        eps=section.eps,
        fused=all(p.device.type in FUSED_DEVICES for p in (*decayed, *kept)),
    )
