"""Preferences: losses of pairs of answers to one prompt, of which one was chosen.

A pair lies in one row as two conversations that don't see each other, so that each loss is a sum
over pairs, and the pairs of a step are counted before its forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manta.config.objective import ObjectiveSection
from manta.model.adapter import adapted_layers, without_adapter
from manta.model.cross_entropy import IGNORE
from manta.objective.causal import TokenRows
from manta.objective.label_losses import LabelLosses
from manta.objective.pair_losses import LOSSES, Answers, PairLoss, Settings, difference
from manta.objective.protocol import DeviceRows, Models, Term
from manta.objective.sft import SupervisedFineTuning
from manta.parallel.host_to_device import to_device
from manta.sample.chat import conversation_of
from manta.sample.columns import Columns

# What is shown of pairs beside the loss, as means over them: the difference of the rewards of both
# answers; the share of pairs in which it is above 0; the rewards; the log-probabilities in nats.
SHOWN = ("margin", "accuracy", "reward_chosen", "reward_rejected", "logp_chosen", "logp_rejected")

# Of tokens, labels and positions, the cross-entropy of each label: (rows, seq_len).
Losses = Callable[[Tensor, Tensor, Tensor], Tensor]


class Preference(SupervisedFineTuning):
    """The mean loss of pairs over the whole global batch.

    Args:
        section: the config's section, which names the loss.
    """

    def __init__(self, section: ObjectiveSection):
        super().__init__(document_mask=True)
        simpo = section.loss == "simpo"
        beta = (2.0 if simpo else 0.1) if section.beta is None else section.beta
        gamma = 1.0 if section.gamma is None else section.gamma
        self._settings = Settings(beta, section.label_smoothing, gamma)
        self._loss = LOSSES[section.loss]
        coefficients = (1.0, beta)  # of orpo; the others have one term
        self.terms = (
            *map(Term, self._loss.terms, coefficients),
            *(Term(name, 0.0) for name in SHOWN),
        )

    def module(self, models: Models) -> nn.Module:
        """Sums the losses of its pairs.

        Raises:
            ValueError: if the loss needs a reference, and there is neither a frozen model nor an
                adapter without which the trained one is it.
        """
        policy = LabelLosses(models.trained)
        reference = self._reference(policy, models) if self._loss.compares else None
        return PreferenceLoss(policy, reference, self._loss, self._settings)

    def _reference(self, policy: LabelLosses, models: Models) -> Losses:
        if models.frozen is not None:
            return LabelLosses(models.frozen.lm)
        if next(adapted_layers(models.trained), None) is None:
            raise ValueError("there is neither a frozen model nor an adapter to leave out")

        def base(tokens: Tensor, labels: Tensor, position_ids: Tensor) -> Tensor:
            with without_adapter(models.trained):
                losses: Tensor = policy(tokens, labels, position_ids)
            return losses

        return base

    def inputs(self, batch: Columns, device: torch.device) -> PairRows:
        """Tokens, labels of answers, positions, and which answer of its row each label is of."""
        rows = super().inputs(batch, device)
        assert rows.position_ids is not None
        numbers = conversation_of(batch)
        answers = np.zeros_like(numbers)
        answers[:, :-1] = (numbers - numbers[:, :1])[:, 1:]  # label i is token i + 1
        counts = batch["starts"].lengths // 2  # padding may be one more
        pairs = np.arange(counts.max(initial=1)) < counts[:, None]
        return PairRows(
            rows.tokens,
            rows.labels,
            rows.position_ids,
            PairsInRows(
                to_device(torch.from_numpy(answers), device),
                to_device(torch.from_numpy(pairs), device),
            ),
            int(counts.sum()),
        )

    def weights(self, inputs: DeviceRows) -> Tensor:
        """How many pairs there are, for each term, int64 (terms,)."""
        assert isinstance(inputs, PairRows)
        return inputs.labels.new_full((len(self.terms),), inputs.count)


class PairsInRows:
    """Which pairs are in rows.

    As one object, and no tuple, it tells `torch.compile` nothing of the number of pairs, which is
    another one in each forward pass.

    Attributes:
        answers: number of the conversation in its row that a label is of, int64 (rows, seq_len).
        there: pairs that a row has, of as many as any has, bool (rows, most).
    """

    def __init__(self, answers: Tensor, there: Tensor):
        self.answers, self.there = answers, there

    def rows(self, rows: slice, blank: int) -> PairsInRows:
        """Those of some rows, with so many blank ones, which have none."""
        taken = (self.answers[rows], self.there[rows])
        return PairsInRows(*(F.pad(one, (0, 0, 0, blank)) for one in taken))


@dataclass(frozen=True)
class PairRows(TokenRows):
    """Rows of tokens with pairs of conversations.

    Attributes:
        pairs: the pairs in them.
        count: number of all pairs.
    """

    pairs: PairsInRows
    count: int

    def rows(self, rows: slice, width: int = 1) -> tuple[Any, ...]:
        """As those of tokens, and the pairs."""
        given = super().rows(rows, width)
        return *given, self.pairs.rows(rows, len(given[0]) - len(self.tokens[rows]))


class PreferenceLoss(nn.Module):
    """A causal LM that returns the sums over pairs of an objective's terms.

    Args:
        policy: cross-entropy of the labels by the model that is trained.
        reference: the same by the one to compare with; None for a loss without one.
        loss: loss of a pair.
        settings: settings of the loss.
    """

    def __init__(
        self, policy: LabelLosses, reference: Losses | None, loss: PairLoss, settings: Settings
    ):
        super().__init__()
        self.policy = policy
        # In a tuple, so that it is no submodule: its weights are not this module's.
        self._reference = (reference,)
        self._loss, self._settings = loss, settings

    def forward(
        self, tokens: Tensor, labels: Tensor, position_ids: Tensor, pairs: PairsInRows
    ) -> Tensor:
        """Sum of each term over the pairs, float32 (terms,).

        Args:
            tokens: int64 (rows, seq_len).
            labels: int64 (rows, seq_len), already shifted, IGNORE outside of answers.
            position_ids: int64 (rows, seq_len), restarting at each conversation.
            pairs: the pairs in these rows.
        """
        (reference,), given = self._reference, (tokens, labels, position_ids)
        compared: Tensor | None = None
        if reference is not None:
            with torch.no_grad():
                compared = reference(*given)
        sums: Tensor = self._summed(self.policy(*given), compared, labels != IGNORE, pairs)
        return sums

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _summed(
        self,
        policy: Tensor,
        reference: Tensor | None,
        supervised: Tensor,
        pairs: PairsInRows,
    ) -> Tensor:
        """Sum of each term, of the cross-entropy of each label by both models, (rows, seq_len)."""
        there = pairs.there[..., None]
        numbers = torch.arange(2 * there.shape[1], device=there.device)
        of_answer = pairs.answers[:, None] == numbers[:, None]  # (rows, 2 · most, seq_len)

        def of_answers(values: Tensor) -> Tensor:
            """Sums over the labels of each answer, float64 (rows, most, 2)."""
            apart = torch.where(of_answer, values.double()[:, None], 0.0)
            return apart.sum(-1).view(*pairs.there.shape, 2)

        lengths = of_answers(supervised).clamp(min=1)
        found = Answers(
            # In place of a pair that is not there one with finite odds, which counts for nothing.
            torch.where(there, -of_answers(policy), -lengths),
            None if reference is None else -of_answers(reference),
            lengths,
        )
        terms, rewards = self._loss.sums(found, self._settings)
        with torch.no_grad():
            margin = difference(rewards)[..., None]
            shown = torch.cat([margin, margin > 0, rewards, found.policy], -1)
        values = torch.cat([terms, shown], -1)
        return torch.where(there, values, 0.0).sum((0, 1)).float()
