"""A reward of answers, learned from pairs of which one was chosen and one rejected."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from manta.objective.labelled_texts import LabelledTexts
from manta.objective.protocol import Term
from manta.sample.columns import Columns
from manta.sample.padded import document_ends


class Reward(LabelledTexts):
    """The mean over pairs of minus the log-probability that the chosen answer wins.

    By Bradley and Terry (1952) it wins with the probability σ(r(chosen) - r(rejected)), r being the
    score at a conversation's last token; as a loss: Ouyang et al., 2022 (arXiv:2203.02155),
    equation 1. Both conversations of a pair are in one row, so that a pair is a part of one sample.

    Shown beside it: in how many pairs the chosen one has the higher reward, and by how much on
    average.
    """

    columns: frozenset[str] = frozenset({"tokens", "starts", "lengths"})
    terms: tuple[Term, ...] = (Term("bradley_terry"), Term("accuracy", 0.0), Term("margin", 0.0))

    def labels(self, batch: Columns) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The last token of each chosen conversation, and of the rejected one, within its row."""
        chosen, rejected = document_ends(batch).reshape(-1, 2).T
        return chosen, rejected % batch["tokens"].shape[1]

    def sums(self, scores: Tensor, labels: Tensor, scored: Tensor) -> Tensor:
        """As the base class says; the label of a chosen conversation is where the rejected ends."""
        rewards = scores[..., 0]
        margins = rewards - rewards.gather(1, labels)
        losses = torch.where(scored, F.softplus(-margins), 0)
        with torch.no_grad():
            wins = ((margins > 0) & scored).sum().to(losses.dtype)
            gained = torch.where(scored, margins, 0).sum()
        return torch.stack([losses.sum(), wins, gained])
