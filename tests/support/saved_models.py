"""Small models in folders of Transformers, for runs to begin from or to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig


def saved_llama(folder: Path, seed: int = 0, vocabulary: int = 61, **sizes: Any) -> Path:
    """A model of two layers whose weights are large enough that it has opinions."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, initializer_range=0.3, **sizes,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
