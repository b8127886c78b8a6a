"""Labels of texts: classes or numbers, predicted from the score at a text's last token.

Which token is the last one of a text is told by its position in the row, never by a token's id: it
is the same whatever pads the row, whatever stands beside the text, and if an EOS stands inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from manta.model.forward import documents_of, options_of
from manta.objective.causal import TokenRows
from manta.objective.protocol import DeviceRows, Models, Term
from manta.parallel.host_to_device import to_device
from manta.sample.columns import Columns
from manta.sample.padded import document_ends
from manta.sample.tokens import position_ids

# With more classes no F1 is shown: it would add three sums a class to each step's.
MOST_WITH_F1 = 512
# (scores of all tokens, labels, which tokens are scored) → the sum of each term.
Sums = Callable[[Tensor, Tensor, Tensor], Tensor]


class LabelledTexts:
    """What objectives on labelled texts have in common. Each term is divided by how many there are.

    Args:
        document_mask: whether attention stays within a text.
    """

    columns: frozenset[str] = frozenset({"tokens", "starts", "lengths", "labels"})
    terms: tuple[Term, ...] = ()
    label_dtype: torch.dtype = torch.int64

    def __init__(self, *, document_mask: bool):
        self._document_mask = document_mask

    def module(self, models: Models) -> nn.Module:
        """Sums the terms over the texts of its rows."""
        return ScoreLoss(models.trained, self.sums)

    def inputs(self, batch: Columns, device: torch.device) -> TextRows:
        """Tokens, and the label of each text at its last one."""
        tokens, (places, values) = batch["tokens"].astype(np.int64), self.labels(batch)
        labels = torch.zeros(tokens.size, dtype=self.label_dtype)
        scored = torch.zeros(tokens.size, dtype=torch.bool)
        labels[places] = torch.from_numpy(values.copy()).to(self.label_dtype)
        scored[places] = True
        positions = torch.from_numpy(position_ids(batch)) if self._document_mask else None
        return TextRows(
            to_device(torch.from_numpy(tokens), device),
            to_device(labels.view(tokens.shape), device),
            None if positions is None else to_device(positions, device),
            to_device(scored.view(tokens.shape), device),
        )

    def labels(self, batch: Columns) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The last token of each text, as flat places in the batch's tokens, and its label."""
        return document_ends(batch), batch["labels"].flat

    def weights(self, inputs: DeviceRows) -> Tensor:
        """How many texts there are, for each term, int64 (terms,)."""
        assert isinstance(inputs, TextRows)
        return inputs.scored.sum().expand(len(self.terms))

    def sums(self, scores: Tensor, labels: Tensor, scored: Tensor) -> Tensor:
        """Each term summed over texts, (terms,).

        Args:
            scores: scores of each token, float32 (rows, seq_len, scores).
            labels: the label of a text at its last token, (rows, seq_len).
            scored: True at the last token of each text, bool (rows, seq_len).
        """
        raise NotImplementedError


class Classification(LabelledTexts):
    """The mean cross-entropy of a text's class, over the texts of the whole global batch.

    Shown beside it: the accuracy, and the macro F1, the mean over classes of 2 tp / (2 tp + fp +
    fn), in which tp texts are of the class and taken for it, fp taken for it alone and fn of it
    alone (van Rijsbergen, 1979, chapter 7); classes that no text is of or taken for are left out.
    F1 is no sum over texts, but it follows from three that are: tp, tp + fp and tp + fn.

    Args:
        classes: names of the classes, in the order of their numbers.
        document_mask: whether attention stays within a text.
    """

    def __init__(self, classes: Sequence[str], *, document_mask: bool):
        super().__init__(document_mask=document_mask)
        self._counted = len(classes) if len(classes) <= MOST_WITH_F1 else 0
        counts = [
            Term(f"{what}/{name}", 0.0, shown=False)
            for what in ("right", "taken", "of")
            for name in classes[: self._counted]
        ]
        self.terms = (Term("cross_entropy"), Term("accuracy", 0.0), *counts)

    def sums(self, scores: Tensor, labels: Tensor, scored: Tensor) -> Tensor:
        """As the base class says."""
        losses = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none")
        loss = torch.where(scored.flatten(), losses, 0).sum()
        with torch.no_grad():
            taken = scores.argmax(-1)
            right = (taken == labels) & scored
            counts = []
            if self._counted:
                pairs = ((labels, right), (taken, scored), (labels, scored))
                counts = [_counts(of, counted, self._counted) for of, counted in pairs]
            shown = torch.cat([right.sum().reshape(1), *counts]).to(loss.dtype)
        return torch.cat([loss.reshape(1), shown])

    def figures(self, means: Sequence[float]) -> dict[str, float]:
        """The macro F1, if there are not too many classes."""
        if not self._counted:
            return {}
        right, taken, of = np.array(means[2:]).reshape(3, self._counted)
        there = taken + of > 0
        return {"f1": float((2 * right[there] / (taken + of)[there]).mean())} if there.any() else {}


class Regression(LabelledTexts):
    """The mean squared error of the number that a text is labelled with, over all texts.

    Shown beside it: the mean absolute error.
    """

    terms: tuple[Term, ...] = (Term("squared_error"), Term("absolute_error", 0.0))
    label_dtype = torch.float32

    def sums(self, scores: Tensor, labels: Tensor, scored: Tensor) -> Tensor:
        """As the base class says."""
        errors = torch.where(scored, scores[..., 0] - labels, 0)
        return torch.stack([errors.square().sum(), errors.detach().abs().sum()])


@dataclass(frozen=True)
class TextRows(TokenRows):
    """Rows of tokens, each text's label at its last token.

    Attributes:
        scored: True at the last token of each text, bool (rows, seq_len).
    """

    scored: Tensor

    def rows(self, rows: slice, width: int = 1) -> tuple[Any, ...]:
        """As those of tokens, and which tokens are scored: none in a blank row."""
        given = super().rows(rows, width)
        scored = self.scored[rows]
        return *given, F.pad(scored, (0, 0, 0, len(given[0]) - len(scored)))


class ScoreLoss(nn.Module):
    """A model with a head for scores that returns an objective's sums over the texts of rows."""

    def __init__(self, lm: nn.Module, sums: Sums):
        super().__init__()
        self.lm, self._sums = lm, sums
        self._options = options_of(lm)

    def forward(
        self, tokens: Tensor, labels: Tensor, position_ids: Tensor | None, scored: Tensor
    ) -> Tensor:
        """The sums of the terms, (terms,).

        Args:
            tokens: int64 (rows, seq_len).
            labels: the label of a text at its last token, (rows, seq_len); anything elsewhere.
            position_ids: int64 (rows, seq_len), restarting at each text, to keep attention within
                texts; None for plain causal attention.
            scored: True at the last token of each text, bool (rows, seq_len).
        """
        documents = documents_of(self.lm, position_ids)
        scores: Tensor = self.lm(input_ids=tokens, **documents, **self._options).logits
        wide = scores if scores.dtype == torch.float64 else scores.float()
        return self._sums(wide, labels.masked_fill(~scored, 0), scored)


def _counts(classes: Tensor, counted: Tensor, number: int) -> Tensor:
    """How many tokens of each class are counted, (number,)."""
    counts = torch.zeros(number, dtype=torch.int64, device=classes.device)
    return counts.scatter_add_(0, classes.flatten(), counted.flatten().long())
