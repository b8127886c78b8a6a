"""Small models in folders of Transformers, for runs to begin from or to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig


def saved_llama(folder: Path, seed: int = 0, vocabulary: int = 61, **sizes: Any) -> Path:
    """A model, if not told otherwise of two layers, with opinions: its weights are large."""
    torch.manual_seed(seed)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=vocabulary, initializer_range=0.3, **small | heads | sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
