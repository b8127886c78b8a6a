"""Does this machine compute floats as another one did? Asked of Torch alone, without Manta.

The last bits of a sum depend on the processor and on versions of Torch and Transformers. A result
that is kept in the repository can be held to the bit only where both compute alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """The SHA-256 of tensors by name: type, shape and every bit."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def arithmetic() -> str:
    """A digest of what four plain steps of a small model come to."""
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=4,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = LlamaForCausalLM(config)
        tokens = torch.randint(config.vocab_size, (4, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    for _ in range(4):
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return digest_of({**dict(model.named_parameters()), "loss": loss})
