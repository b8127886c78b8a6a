"""Causal language modelling: the cross-entropy of the next token, a mean over all that count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manta.model.cross_entropy import IGNORE, linear_cross_entropy
from manta.model.forward import documents_of, options_of
from manta.model.loss_head import head_of
from manta.objective.protocol import DeviceRows, Models, Term
from manta.parallel.host_to_device import to_device
from manta.sample.columns import Columns
from manta.sample.tokens import position_ids


class Causal:
    """The mean cross-entropy of the next token over the labels of the whole global batch."""

    columns: frozenset[str] = frozenset({"tokens", "starts"})
    terms: tuple[Term, ...] = (Term("cross_entropy"),)

    def __init__(self, *, document_mask: bool = False):
        self._document_mask = document_mask

    def module(self, models: Models) -> nn.Module:
        """Sums the cross-entropy of its rows."""
        return TokenLoss(models.trained)

    def inputs(self, batch: Columns, device: torch.device) -> TokenRows:
        """Tokens and their labels, with positions if there is a document mask."""
        tokens = torch.from_numpy(batch["tokens"].astype(np.int64))
        positions = torch.from_numpy(position_ids(batch)) if self._document_mask else None
        labels = labels_of(tokens, positions)
        return TokenRows(
            to_device(tokens, device),
            to_device(labels, device),
            None if positions is None else to_device(positions, device),
        )

    def weights(self, inputs: DeviceRows) -> Tensor:
        """How many labels count, int64 (1,)."""
        assert isinstance(inputs, TokenRows)
        return (inputs.labels != IGNORE).sum().reshape(1)


@dataclass(frozen=True)
class TokenRows:
    """Rows of tokens on a device.

    Attributes:
        tokens: int64 (rows, seq_len).
        labels: int64 (rows, seq_len), IGNORE where a token has none.
        position_ids: int64 (rows, seq_len), restarting at each document; None if documents don't
            matter.
    """

    tokens: Tensor
    labels: Tensor
    position_ids: Tensor | None

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, rows: slice, width: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
        """Arguments of the module for some rows, and for as many blank ones as `width` asks for.

        A blank row has no label that counts: it adds nothing to the loss or its gradient.
        """
        tokens, labels, positions = self.tokens[rows], self.labels[rows], self.position_ids
        positions = None if positions is None else positions[rows]
        blank = width - len(tokens)
        if blank <= 0:
            return tokens, labels, positions
        if positions is not None:
            one_document = torch.arange(tokens.shape[1], device=tokens.device)
            positions = torch.cat([positions, one_document.expand(blank, -1)])
        below = (0, 0, 0, blank)
        return F.pad(tokens, below), F.pad(labels, below, value=IGNORE), positions


def labels_of(tokens: Tensor, position_ids: Tensor | None) -> Tensor:
    """The next token of each token within its window, IGNORE where there is none.

    With `position_ids`, the first token of a document is nobody's label: the document
    before it says nothing about it.
    """
    labels = torch.full_like(tokens, IGNORE)
    labels[:, :-1] = tokens[:, 1:]
    if position_ids is not None:
        labels[:, :-1].masked_fill_(position_ids[:, 1:] == 0, IGNORE)
    return labels


class TokenLoss(nn.Module):
    """A causal LM that returns the summed cross-entropy of its tokens.

    The sum, not the mean: the divisor is the count of valid tokens in the whole step,
    which one micro-batch of one rank can't know.
    """

    def __init__(self, lm: nn.Module):
        super().__init__()
        self.lm = lm
        # In a list: not a submodule of this one too, so that its parameters have one name.
        self._head = [head_of(lm)]
        self._options = options_of(lm)

    def forward(
        self,
        tokens: Tensor,
        labels: Tensor,
        position_ids: Tensor | None,
        scale: Tensor | None = None,
    ) -> Tensor:
        """Sum of the cross-entropy in nats over labels that are not IGNORE, (1,).

        Args:
            tokens: int64 (rows, seq_len).
            labels: int64 (rows, seq_len), already shifted: label i is token i + 1.
            position_ids: int64 (rows, seq_len), restarting at each document, to keep
                attention within documents; None for plain causal attention.
            scale: factor of each label's cross-entropy, float32 (rows, seq_len); None for 1.
        """
        head, flat = self._head[0], labels.flatten()
        factors = None if scale is None else scale.flatten()
        fused = head is not None and not is_half(tokens.device)
        if head is not None and fused:
            head.instead = lambda hidden, weight, bias: linear_cross_entropy(
                hidden, weight, bias, flat, factors
            )
        documents = documents_of(self.lm, position_ids)
        out: Tensor = self.lm(input_ids=tokens, **documents, **self._options).logits
        if not fused:
            wide = out if out.dtype == torch.float64 else out.float()
            out = F.cross_entropy(
                wide.flatten(0, 1),
                flat,
                ignore_index=IGNORE,
                reduction="sum" if factors is None else "none",
            )
            if factors is not None:
                out = (out * factors).sum()
        return out.reshape(1)


def is_half(device: torch.device) -> bool:
    """Whether products are in fp16, where gradients vanish unless the loss is scaled before."""
    return (
        torch.is_autocast_enabled(device.type)
        and torch.get_autocast_dtype(device.type) == torch.float16
    )
