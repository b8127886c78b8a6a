"""Which of Transformers' attention implementations a model trains with, by task and device.

Transformers looks at each forward pass's position ids for packed documents. That makes the host
wait for an accelerator, and where `torch.compile` traces it, a mask of (rows, 1, seq_len,
seq_len) is made even where none is needed, which rules out Torch's fastest kernels.

On a CPU attention is computed in float32 under every precision: Torch's kernels for bf16 are slower
there, backward above all, also on processors with instructions for bf16 (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from manta.model.forward import DOCUMENTS, documents_of, options_of

# Torch's attention, and nobody makes a mask for it: without one it is causal.
CAUSAL = "sdpa_without_mask"
# Torch's attention with Transformers' mask, in float32.
MASKED = "sdpa_in_float32"
# Knows documents by blocks, not by a mask of seq_len² elements. Transformers' name, as some of its
# models look for it.
BLOCKS = "flex_attention"


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Torch's attention, on a CPU in float32. Some models give the mask by its name."""
    if query.device.type != "cpu":
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None
    wide = query.float(), key.float(), value.float()
    with torch.autocast("cpu", enabled=False):
        output, _ = sdpa_attention_forward(module, *wide, attention_mask, **kwargs)
    return output.to(value.dtype), None


def _forward_without_mask(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As `_forward`. A mask that a model makes by itself would not be causal: it is refused."""
    if attention_mask is not None:
        raise MaskGiven
    return _forward(module, query, key, value, None, **kwargs)


def _forward_in_blocks(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Transformers' attention by blocks, of matrices of one type: its backward takes no others.

    Under autocast, rotary positions leave queries and keys in float32, and values in bf16.
    """
    found: tuple[Tensor, Tensor | None] = flex_attention_forward(
        module, query.to(value.dtype), key.to(value.dtype), value, attention_mask, **kwargs
    )
    return found


def _forward_in_documents(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """As `_forward_in_blocks`, by the blocks that the model was given and no others."""
    if not isinstance(attention_mask, BlockMask):
        raise MaskGiven
    return _forward_in_blocks(module, query, key, value, attention_mask, **kwargs)


class MaskGiven(Exception):
    """A model has a mask of its own, or none, where it was to have what it was given."""


AttentionInterface.register(CAUSAL, _forward_without_mask)
AttentionInterface.register(MASKED, _forward)
AttentionMaskInterface.register(MASKED, sdpa_mask)
AttentionInterface.register(BLOCKS, _forward_in_blocks)
AttentionInterface.register(DOCUMENTS, _forward_in_documents)


def choose(lm: PreTrainedModel, *, document_mask: bool, seq_len: int, device: torch.device) -> None:
    """Set the attention implementation that suits the run.

    Args:
        lm: left as it is unless Transformers would have it use Torch's attention.
        document_mask: whether attention stays within documents.
        seq_len: tokens in a sample.
        device: the model's device. The block-sparse kernel is for CUDA alone.
    """
    if lm.config._attn_implementation != "sdpa":
        return
    if not document_mask and attends_to_everything(lm.config, seq_len):
        lm.set_attn_implementation(CAUSAL)
        if _needs_no_mask(lm):
            return
        lm.set_attn_implementation("sdpa")
    if device.type == "cpu":
        lm.set_attn_implementation(MASKED)
    elif document_mask and _has_blocks(lm, device):
        lm.set_attn_implementation(BLOCKS)
        if attends_to_everything(lm.config, seq_len) and _takes_documents(lm):
            lm.set_attn_implementation(DOCUMENTS)


def follow(lm: PreTrainedModel, like: PreTrainedModel) -> None:
    """Set the attention implementation that was chosen for `like`, a model of the same kind."""
    chosen = like.config._attn_implementation
    if lm.config._attn_implementation != chosen:
        lm.set_attn_implementation(chosen)


def is_compiled(lm: nn.Module) -> bool:
    """Whether attention is compiled, for each shape when it comes first."""
    config = getattr(lm, "config", None)  # a model of the user's own has none
    return getattr(config, "_attn_implementation", None) in (BLOCKS, DOCUMENTS)


@torch.no_grad()
def _needs_no_mask(lm: PreTrainedModel) -> bool:
    """Whether the model gives its attention no mask unless it is given one: tried, not assumed."""
    tokens = torch.zeros((1, 2), dtype=torch.int64, device=next(lm.parameters()).device)
    try:
        lm(input_ids=tokens, **options_of(lm))
    except MaskGiven:
        return False
    return True


@torch.no_grad()
def _takes_documents(lm: PreTrainedModel) -> bool:
    """Whether a model does with a mask of blocks as with its own: tried, without a kernel."""
    device = next(lm.parameters()).device
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2]], device=device)
    tokens = torch.arange(8, device=device)[None] % lm.get_input_embeddings().weight.shape[0]
    chosen, was_training = lm.config._attn_implementation, lm.training
    lm.eval()
    found = []
    try:
        with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
            # Torch advises users who train so to compile.
            warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
            for name in (BLOCKS, DOCUMENTS):
                lm.set_attn_implementation(name)
                documents = documents_of(lm, positions)
                found.append(lm(input_ids=tokens, **documents, **options_of(lm)).logits)
    except Exception:  # each model's class has errors of its own
        return False
    finally:
        lm.set_attn_implementation(chosen)
        lm.train(was_training)
    own, given = found
    return torch.allclose(own, given, rtol=1e-4, atol=1e-5 * float(own.abs().max()))


def attends_to_everything(config: PretrainedConfig, seq_len: int) -> bool:
    """Whether every layer attends to all tokens before: no window, no chunks below `seq_len`."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    spans = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return kinds == {"full_attention"} and all(span is None or span >= seq_len for span in spans)


def _has_blocks(lm: PreTrainedModel, device: torch.device) -> bool:
    """Whether the block-sparse kernel can serve the model: it is for CUDA, without dropout."""
    drops = any(getattr(lm.config, name, 0) for name in ("attention_dropout", "attn_pdrop"))
    return device.type == "cuda" and lm._supports_flex_attn and not drops
