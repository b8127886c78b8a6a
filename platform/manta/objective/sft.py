"""Supervised fine-tuning on conversations: the cross-entropy of the answers' tokens alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from manta.model.cross_entropy import IGNORE
from manta.objective.causal import TokenLoss, TokenRows
from manta.objective.protocol import DeviceRows, Models, Term
from manta.parallel.host_to_device import to_device
from manta.sample.chat import supervised_mask
from manta.sample.columns import Columns
from manta.sample.tokens import position_ids


class SupervisedFineTuning:
    """The mean cross-entropy over the supervised tokens of the whole global batch.

    Attention stays within a conversation, whose positions count from 0, so that a conversation is
    learned from alike whatever it is packed with.
    """

    columns: frozenset[str] = frozenset({"tokens", "starts", "supervised"})
    terms: tuple[Term, ...] = (Term("cross_entropy"),)

    def module(self, models: Models) -> nn.Module:
        """Sums the cross-entropy of its rows' supervised tokens."""
        return TokenLoss(models.trained)

    def inputs(self, batch: Columns, device: torch.device) -> TokenRows:
        """Tokens, the labels that are supervised, and positions within each conversation."""
        tokens = torch.from_numpy(batch["tokens"].astype(np.int64))
        supervised = torch.from_numpy(supervised_mask(batch))
        labels = torch.full_like(tokens, IGNORE)
        labels[:, :-1] = torch.where(supervised[:, 1:], tokens[:, 1:], IGNORE)
        positions = torch.from_numpy(position_ids(batch))
        return TokenRows(*(to_device(one, device) for one in (tokens, labels, positions)))

    def weights(self, inputs: DeviceRows) -> Tensor:
        """How many supervised tokens there are, int64 (1,)."""
        assert isinstance(inputs, TokenRows)
        return (inputs.labels != IGNORE).sum().reshape(1)
