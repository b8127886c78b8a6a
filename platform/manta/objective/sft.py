"""Supervised fine-tuning: the cross-entropy of the answers in conversations, and of no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from manta.model.cross_entropy import IGNORE
from manta.objective.causal import Causal, TokenRows
from manta.objective.protocol import DeviceRows
from manta.parallel.host_to_device import to_device
from manta.sample.chat import conversation_of, supervised_mask
from manta.sample.columns import Columns


class SupervisedFineTuning(Causal):
    """The mean cross-entropy over the supervised tokens of the whole global batch.

    With `per` sequence it is the mean over conversations of each one's mean over its own supervised
    tokens, so that a long answer counts no more than a short one.

    Args:
        document_mask: whether attention stays within a conversation.
        per: unit that the loss is averaged over.
    """

    columns: frozenset[str] = Causal.columns | {"supervised"}

    def __init__(self, *, document_mask: bool, per: Literal["token", "sequence"] = "token"):
        super().__init__(document_mask=document_mask)
        self._per = per

    def inputs(self, batch: Columns, device: torch.device) -> TokenRows:
        """Tokens, labels that are supervised, and positions if there is a document mask."""
        rows = super().inputs(batch, device)
        supervised = supervised_mask(batch)
        counted = np.zeros_like(supervised)
        counted[:, :-1] = supervised[:, 1:]  # label i is token i + 1
        labels = rows.labels.masked_fill(~to_device(torch.from_numpy(counted), device), IGNORE)
        if self._per == "token":
            return TokenRows(rows.tokens, labels, rows.position_ids)
        shares, conversations = _share_of_each(batch, supervised)
        scale = to_device(torch.from_numpy(shares), device)
        return ScaledRows(rows.tokens, labels, rows.position_ids, scale, conversations)

    def weights(self, inputs: DeviceRows) -> Tensor:
        """How many supervised tokens there are, or conversations that have some, int64 (1,)."""
        if isinstance(inputs, ScaledRows):
            return inputs.labels.new_tensor([inputs.conversations])
        return super().weights(inputs)


@dataclass(frozen=True)
class ScaledRows(TokenRows):
    """Rows of tokens whose labels count as much as each conversation's own number of them asks for.

    Attributes:
        scale: factor of each label's cross-entropy, float32 (rows, seq_len).
        conversations: how many there are that have a supervised token.
    """

    scale: Tensor
    conversations: int

    def rows(self, rows: slice, width: int = 1) -> tuple[Any, ...]:
        """As those of tokens, and the scale."""
        given = super().rows(rows, width)
        scale = self.scale[rows]
        return *given, F.pad(scale, (0, 0, 0, len(given[0]) - len(scale)))


def _share_of_each(batch: Columns, mask: NDArray[np.bool_]) -> tuple[NDArray[np.float32], int]:
    """One over the supervised tokens of its conversation, for each label; and how many there are.

    Label i is token i + 1.
    """
    conversation = conversation_of(batch)
    counts = np.bincount(conversation[mask], minlength=int(conversation.max(initial=0)) + 1)
    scale = np.zeros(mask.shape, np.float32)
    scale[:, :-1] = (mask / np.maximum(counts, 1)[conversation])[:, 1:]
    return scale, int((counts > 0).sum())
