"""A rank's rows of a step on its device, and the arguments of a forward pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manta.model.cross_entropy import IGNORE
from manta.model.language_model import labels_of
from manta.sample.columns import Columns
from manta.sample.tokens import position_ids


@dataclass(frozen=True)
class DeviceBatch:
    """Rows on a device, int64 (rows, seq_len) each."""

    tokens: Tensor
    labels: Tensor
    position_ids: Tensor | None

    @classmethod
    def of(cls, samples: Columns, document_mask: bool, device: torch.device) -> DeviceBatch:
        """Samples, with positions that restart at each document if there is a document mask."""
        tokens = torch.from_numpy(samples["tokens"].astype(np.int64))
        positions = torch.from_numpy(position_ids(samples)) if document_mask else None
        labels = labels_of(tokens, positions)
        return cls(
            to_device(tokens, device),
            to_device(labels, device),
            None if positions is None else to_device(positions, device),
        )

    def rows(self, rows: slice, width: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
        """Arguments of the model for some rows, and for as many blank ones as `width` asks for.

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


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`, without waiting for an accelerator."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
