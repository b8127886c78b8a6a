"""Causal language modelling with a balance loss per sequence for a router's choice of experts.

The usual balance loss is a product of two means over all tokens of a forward pass: no sum over
samples, so it depends on how rows are laid over ranks and passes. That of each sequence by itself
is: DeepSeek-V3 (arXiv:2412.19437), equations 17 to 20.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manta.config.errors import ConfigError
from manta.model.routers import choice_of, routers_of
from manta.objective.causal import Causal, TokenRows
from manta.objective.protocol import DeviceRows, Models, Term
from manta.sample.columns import Columns


class BalancedCausal(Causal):
    """The cross-entropy of the next token, and the mean over sequences of their balance loss."""

    def __init__(self, coefficient: float, *, document_mask: bool = False):
        super().__init__(document_mask=document_mask)
        self.terms = (*Causal.terms, Term("balance", coefficient, auxiliary=True))

    def module(self, models: Models) -> nn.Module:
        """Sums the cross-entropy, and the balance losses of its rows.

        Raises:
            ConfigError: if no router's choice can be read.
        """
        return BalancedLoss(super().module(models), RouterChoices(models.trained))

    def inputs(self, batch: Columns, device: torch.device) -> RoutedRows:
        """Tokens and their labels, and which rows are real."""
        rows = super().inputs(batch, device)
        return RoutedRows(rows.tokens, rows.labels, rows.position_ids)

    def weights(self, inputs: DeviceRows) -> Tensor:
        """How many labels count, and how many sequences there are, int64 (2,)."""
        labels = super().weights(inputs)
        return torch.cat([labels, labels.new_tensor([len(inputs)])])


class RoutedRows(TokenRows):
    """Rows of tokens, of which blank ones are left out of the balance."""

    def rows(self, rows: slice, width: int = 1) -> tuple[Any, ...]:
        """As those of tokens, and whether each token is real: bool (rows, seq_len)."""
        given = super().rows(rows, width)
        real = torch.ones_like(self.tokens[rows], dtype=torch.bool)
        return *given, F.pad(real, (0, 0, 0, len(given[0]) - len(real)))


class BalancedLoss(nn.Module):
    """A causal LM that returns the sums of cross-entropy and balance loss, (2,)."""

    def __init__(self, tokens: nn.Module, choices: RouterChoices):
        super().__init__()
        self.tokens, self._choices = tokens, choices

    def forward(
        self, tokens: Tensor, labels: Tensor, position_ids: Tensor | None, real: Tensor
    ) -> Tensor:
        """Sums over rows; `real` is bool (rows, seq_len), the others as for `TokenLoss`."""
        with self._choices:
            cross_entropy: Tensor = self.tokens(tokens, labels, position_ids)
            balance = sum(
                sequence_balance(scores, chosen, real) for scores, chosen in self._choices.taken()
            )
        return torch.cat([cross_entropy, torch.as_tensor(balance).to(cross_entropy).reshape(1)])


def sequence_balance(scores: Tensor, chosen: Tensor, real: Tensor) -> Tensor:
    """The balance losses of sequences, summed: 1 for each sequence whose experts have equal shares.

    Of a sequence of T tokens with K of E experts each, it is the sum over experts i of f_i P_i:
    f_i = E/(K T) times how many tokens chose i, and P_i the mean over tokens of i's score, a share
    of the token's scores of all experts. Tokens that are not real count in none of them.

    Args:
        scores: not negative, (rows · seq_len, E).
        chosen: experts of each token, int64 (rows · seq_len, K).
        real: bool (rows, seq_len).
    """
    experts, choices = scores.shape[-1], chosen.shape[-1]
    shares = (scores / scores.sum(-1, keepdim=True)).view(*real.shape, experts)
    picks = torch.zeros_like(scores).scatter_(-1, chosen, 1.0).view(*real.shape, experts)
    tokens = real.sum(1, keepdim=True).clamp(min=1)
    mask = real[..., None]
    frequency = (picks * mask).sum(1) * experts / (choices * tokens)
    return (frequency * (shares * mask).sum(1) / tokens).sum()


class RouterChoices:
    """What the routers of a model choose in a forward pass, layer by layer.

    A context: choices are noted only within it, not where a backward pass computes activations
    again.
    """

    def __init__(self, lm: nn.Module):
        routers = routers_of(lm)
        if not routers:
            raise ConfigError(
                f"objective.balance: no router whose choice of experts can be read is in "
                f"{type(lm).__name__}; set objective.balance: 0, or take another model"
            )
        self._seen: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._notes = False
        for router in routers.values():
            router.register_forward_hook(self._note)

    def __enter__(self) -> None:
        self._seen, self._notes = [], True

    def __exit__(self, *error: object) -> None:
        self._seen, self._notes = [], False

    def taken(self) -> list[tuple[Tensor, Tensor]]:
        """Scores and chosen experts of each layer, as `sequence_balance` takes them."""
        return [(_scores(router, logits), chosen) for router, logits, chosen in self._seen]

    def _note(self, router: nn.Module, given: Any, output: Any) -> None:
        """Note what a router returns, and compute nothing of it.

        Activation checkpointing runs the layer again, and refuses one that saves more tensors for
        its gradient the first time than the second.
        """
        if not self._notes:
            return
        self._seen.append((router, *choice_of(router, output, "objective.balance")))


def _scores(router: nn.Module, logits: Tensor) -> Tensor:
    """What a router scores its experts by, not negative, at least in float32."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    # Routers with a bias for the choice alone score by a sigmoid, others by a softmax.
    by_sigmoid = hasattr(router, "e_score_correction_bias")
    return logits.sigmoid() if by_sigmoid else logits.softmax(-1)
