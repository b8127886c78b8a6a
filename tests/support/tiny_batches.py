"""A batch of documents and a model for it, small enough to be split in many ways."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from manta.sample.columns import Ragged


def documents(rows=6, length=16):
    """Tokens of documents of unlike lengths, so that rows have unlike counts of labels."""
    drawn = np.random.default_rng(1)
    starts = [np.sort(drawn.choice(length, size=n, replace=False)) for n in range(rows)]
    bounds = np.cumsum([0, *map(len, starts)])
    return {
        "tokens": drawn.integers(0, 61, (rows, length)).astype(np.uint16),
        "starts": Ragged(np.concatenate(starts).astype(np.int32), bounds.astype(np.int32)),
    }


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)
