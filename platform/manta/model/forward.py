"""What a model is given at each forward pass beside its tokens."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

# Attention by blocks within documents, which are told from `position_ids` alone: Transformers makes
# no mask for it, as it would first look at their values, and the host would wait for the device.
DOCUMENTS = "flex_attention_of_documents"


def options_of(lm: nn.Module) -> dict[str, Any]:
    """What a model is told at each forward pass: to keep no cache, if it knows of any."""
    taken = inspect.signature(lm.forward).parameters.values()
    knows = any(one.name == "use_cache" or one.kind is one.VAR_KEYWORD for one in taken)
    return {"use_cache": False} if knows else {}


def documents_of(lm: nn.Module, position_ids: Tensor | None) -> dict[str, Any]:
    """What a model is given of the documents in its rows.

    Args:
        lm: the language model, with the attention that it trains with.
        position_ids: int64 (rows, seq_len), restarting at each document; None if documents don't
            matter.
    """
    if position_ids is None:
        return {}
    if getattr(getattr(lm, "config", None), "_attn_implementation", None) != DOCUMENTS:
        return {"position_ids": position_ids}
    return {"position_ids": position_ids, "attention_mask": blocks_of(position_ids)}


def blocks_of(position_ids: Tensor) -> BlockMask:
    """The mask of causal attention within documents, by blocks."""
    documents = (position_ids == 0).cumsum(1)

    def sees(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents[row, query] == documents[row, key])

    rows, seq_len = position_ids.shape
    # Compiled, no mask of seq_len² elements is made on the way.
    compiling = torch.compiler.is_compiling()
    make = create_block_mask if compiling else torch.compile(create_block_mask)
    return make(sees, rows, None, seq_len, seq_len, device=position_ids.device)
