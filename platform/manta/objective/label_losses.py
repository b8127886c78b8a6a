"""A causal LM that gives the cross-entropy of each label, where their sum would not do."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manta.model.cross_entropy import IGNORE, label_cross_entropy
from manta.model.forward import documents_of, options_of
from manta.model.loss_head import head_of
from manta.objective.causal import is_half


class LabelLosses(nn.Module):
    """A causal LM that returns the cross-entropy of each of its labels."""

    def __init__(self, lm: nn.Module):
        super().__init__()
        self.lm = lm
        # In a list: not a submodule of this one too, so that its parameters have one name.
        self._head = [head_of(lm)]
        self._options = options_of(lm)

    def forward(self, tokens: Tensor, labels: Tensor, position_ids: Tensor | None) -> Tensor:
        """Cross-entropy in nats, 0 where a label is IGNORE, at least float32 (rows, seq_len).

        Args:
            tokens: int64 (rows, seq_len).
            labels: int64 (rows, seq_len), already shifted: label i is token i + 1.
            position_ids: int64 (rows, seq_len), restarting at each document; None for plain causal
                attention.
        """
        head, flat = self._head[0], labels.flatten()
        fused = head is not None and not is_half(tokens.device)
        if head is not None and fused:
            head.instead = lambda hidden, weight, bias: label_cross_entropy(
                hidden, weight, bias, flat
            )
        documents = documents_of(self.lm, position_ids)
        out: Tensor = self.lm(input_ids=tokens, **documents, **self._options).logits
        if not fused:
            wide = (out if out.dtype == torch.float64 else out.float()).flatten(0, 1)
            out = F.cross_entropy(wide, flat, ignore_index=IGNORE, reduction="none")
        return out.view(labels.shape)
