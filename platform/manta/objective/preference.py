"""Preferences: losses of pairs of answers to one prompt, of which one was chosen.

A pair lies in one row as two conversations that don't see each other, so that each loss is a sum
over pairs, and the pairs of a step are counted before its forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from manta.config.objective import ObjectiveSection
from manta.model.adapter import adapted_layers, without_adapter
from manta.model.cross_entropy import IGNORE
from manta.objective.label_losses import LabelLosses
from manta.objective.pair_losses import LOSSES, Answers, PairLoss, Settings, difference
from manta.objective.pair_rows import PairRows, PairsInRows
from manta.objective.protocol import DeviceRows, FrozenModel, Models, Term
from manta.objective.sft import SupervisedFineTuning
from manta.sample.answer_log_probs import REFERENCE
from manta.sample.columns import Columns, Ragged

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
        self._brought = section.reference == "precomputed"
        if self._brought:
            self.columns = self.columns | {REFERENCE}
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
        compares = self._loss.compares and not self._brought
        reference = self._reference(policy, models) if compares else None
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
        pairs = PairsInRows.of(batch, device, REFERENCE if self._brought else None)
        count = int((batch["starts"].lengths // 2).sum())
        return PairRows(rows.tokens, rows.labels, rows.position_ids, pairs, count)

    def weights(self, inputs: DeviceRows) -> Tensor:
        """How many pairs there are, for each term, int64 (terms,)."""
        assert isinstance(inputs, PairRows)
        return inputs.labels.new_full((len(self.terms),), inputs.count)


class PreferenceLoss(nn.Module):
    """A causal LM that returns the sums over pairs of an objective's terms.

    Args:
        policy: cross-entropy of the labels by the model that is trained.
        reference: the same by the one to compare with; None for a loss without one, or where pairs
            bring what it says.
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
        lengths = pairs.sums(supervised).clamp(min=1)
        there = pairs.there[..., None]
        found = Answers(
            # In place of a pair that is not there one with finite odds, which counts for nothing.
            torch.where(there, -pairs.sums(policy), -lengths),
            pairs.reference if reference is None else -pairs.sums(reference),
            lengths,
        )
        terms, rewards = self._loss.sums(found, self._settings)
        with torch.no_grad():
            margin = difference(rewards)[..., None]
            shown = torch.cat([margin, margin > 0, rewards, found.policy], -1)
        values = torch.cat([terms, shown], -1)
        return torch.where(there, values, 0.0).sum((0, 1)).float()


class ReferencePass:
    """What a reference says of the answers of pairs, to be kept beside them.

    Args:
        reference: model to compare with.
        device: device of that model.
    """

    def __init__(self, reference: FrozenModel, device: torch.device):
        self._losses, self._device = LabelLosses(reference.lm), device
        self._objective = Preference(ObjectiveSection(type="preference"))

    @torch.no_grad()
    def __call__(self, batch: Columns) -> Ragged:
        """The log-probabilities of a batch's answers, as the column `REFERENCE` has them."""
        rows = self._objective.inputs(batch, self._device)
        sums = -rows.pairs.sums(self._losses(rows.tokens, rows.labels, rows.position_ids))
        there = rows.pairs.there.cpu().numpy()
        bounds = np.concatenate([[0], np.cumsum(2 * there.sum(1))]).astype(np.int32)
        return Ragged(sums.cpu().numpy()[there].reshape(-1), bounds)
