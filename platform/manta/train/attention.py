"""Which of Transformers' attention implementations a model trains with, by task and device.

Transformers looks at each forward pass's position ids for packed documents. That makes the host
wait for an accelerator, and where `torch.compile` traces it, a mask of (rows, 1, seq_len,
seq_len) is made even where none is needed, which rules out Torch's fastest kernels.
"""

from __future__ import annotations

import torch
from transformers import AttentionInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# Torch's attention, and nobody makes a mask for it: without one it is causal.
CAUSAL = "sdpa_without_mask"
# Knows documents by blocks, not by a mask of seq_len² elements.
BLOCKS = "flex_attention"

AttentionInterface.register(CAUSAL, sdpa_attention_forward)


def choose(lm: PreTrainedModel, *, document_mask: bool, seq_len: int, device: torch.device) -> None:
    """Set the attention implementation that suits the run.

    Args:
        lm: left as it is unless it would use Torch's attention with a mask.
        document_mask: whether attention stays within documents.
        seq_len: tokens in a sample.
        device: on which it will run. The block-sparse kernel is for CUDA alone.
    """
    if lm.config._attn_implementation != "sdpa":
        return
    if not document_mask:
        if attends_to_everything(lm.config, seq_len):
            lm.set_attn_implementation(CAUSAL)
    elif device.type == "cuda" and lm._supports_flex_attn and not _drops(lm.config):
        lm.set_attn_implementation(BLOCKS)


def attends_to_everything(config: PretrainedConfig, seq_len: int) -> bool:
    """Whether every layer attends to all tokens before: no window, no chunks below `seq_len`."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    spans = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return kinds == {"full_attention"} and all(span is None or span >= seq_len for span in spans)


def _drops(config: PretrainedConfig) -> bool:
    """Whether attention has dropout, which the block-sparse kernel has not."""
    return any(getattr(config, name, 0) for name in ("attention_dropout", "attn_pdrop"))
