"""Distillation: a student learns to say what a frozen teacher would say of each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manta.config.errors import ConfigError
from manta.model.divergence import (
    Measure,
    Teacher,
    TeacherLogits,
    TeacherTop,
    divergence,
    linear_divergence,
)
from manta.model.forward import documents_of, options_of
from manta.model.loss_head import head_of
from manta.objective.causal import Causal, TokenRows, is_half
from manta.objective.protocol import DeviceRows, FrozenModel, Models, Term
from manta.objective.sft import SupervisedFineTuning
from manta.parallel.host_to_device import to_device
from manta.sample.columns import Columns
from manta.sample.teacher_top import LOG_PROBS, TAIL, TOKENS


class Distillation:
    """The mean over labels of a divergence from the teacher, mixed with the cross-entropy.

    `manta.model.divergence.Measure` has the formula. Of conversations, answers alone have labels;
    of text, all tokens but the first. What is trained on is the term `distill`. `loss` and
    `val_loss` are the mean cross-entropy, as of any language model, so that they mean the same at
    any setting; the mean divergence is shown beside it.

    Args:
        measure: divergence from the teacher, and its share in the loss.
        document_mask: whether attention stays within a document.
        per: unit that means are taken over, as for `SupervisedFineTuning`.
        precomputed: whether samples bring what the teacher says of them; else it is a frozen model.
    """

    terms: tuple[Term, ...] = (
        Term("distill", auxiliary=True),
        Term("divergence", 0.0),
        Term("cross_entropy", 0.0, is_loss=True),
    )

    def __init__(
        self,
        measure: Measure,
        *,
        document_mask: bool = False,
        per: Literal["token", "sequence"] = "token",
        precomputed: bool = False,
    ):
        self._measure = measure
        self._text = Causal(document_mask=document_mask)
        self._chats = SupervisedFineTuning(document_mask=document_mask, per=per)
        self._precomputed = precomputed
        brought = {TOKENS, LOG_PROBS, TAIL} if precomputed else set[str]()
        self.columns: frozenset[str] = Causal.columns | brought

    def module(self, models: Models) -> nn.Module:
        """Sums loss, divergence and cross-entropy of its rows.

        Raises:
            ConfigError: if teacher and student have other vocabularies.
        """
        return DistillationLoss(models.trained, models.frozen, self._measure)

    def inputs(self, batch: Columns, device: torch.device) -> TokenRows | TaughtRows:
        """Tokens and their labels, as the corpus has them, and what a teacher said of them."""
        rows = (self._chats if "supervised" in batch else self._text).inputs(batch, device)
        if not self._precomputed:
            return rows
        columns = batch[TOKENS].astype(np.int64), batch[LOG_PROBS], batch[TAIL]
        return TaughtRows(
            rows, tuple(to_device(torch.from_numpy(column.copy()), device) for column in columns)
        )

    def weights(self, inputs: DeviceRows) -> Tensor:
        """How many labels count, or conversations, the same for each term, int64 (3,)."""
        rows = inputs.labelled if isinstance(inputs, TaughtRows) else inputs
        return self._chats.weights(rows).expand(len(self.terms))


@dataclass(frozen=True)
class TaughtRows:
    """Rows of tokens, and what a teacher said of each.

    Attributes:
        labelled: tokens with their labels.
        top: the fields of `TeacherTop`, of rows: (rows, seq_len, count) twice, and (rows, seq_len).
    """

    labelled: TokenRows
    top: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.labelled)

    def rows(self, rows: slice, width: int = 1) -> tuple[Any, ...]:
        """As those of tokens, and what the teacher said; of a blank row nothing that counts."""
        given = self.labelled.rows(rows, width)
        tokens, labels, positions, scale = given if len(given) == 4 else (*given, None)
        blank = len(tokens) - len(self.top[0][rows])
        top = (F.pad(each[rows], (0, 0) * (each.ndim - 1) + (0, blank)) for each in self.top)
        return tokens, labels, positions, scale, *top


class DistillationLoss(nn.Module):
    """A causal LM that returns the sums of loss, divergence from a teacher and cross-entropy."""

    def __init__(self, lm: nn.Module, teacher: FrozenModel | None, measure: Measure):
        super().__init__()
        if teacher is not None:
            _check_vocabularies(lm, teacher.lm)
        self.lm, self._measure = lm, measure
        self._says = None if teacher is None else TeacherPass(teacher)
        # In a list: not a submodule of this one too, so that its parameters have one name.
        self._head = [head_of(lm)]
        self._options = options_of(lm)

    def forward(
        self,
        tokens: Tensor,
        labels: Tensor,
        position_ids: Tensor | None,
        scale: Tensor | None = None,
        *top: Tensor,
    ) -> Tensor:
        """Sums over labels that are not IGNORE, (3,).

        Args:
            tokens: int64 (rows, seq_len).
            labels: int64 (rows, seq_len), already shifted: label i is token i + 1.
            position_ids: int64 (rows, seq_len), restarting at each document, to keep
                attention within documents; None for plain causal attention.
            scale: factor of each label in the sums, float32 (rows, seq_len); None for 1.
            top: tensors of `TaughtRows`, if the teacher isn't there itself.
        """
        teacher = self._teacher(tokens, position_ids, top)
        flat, factors = labels.flatten(), None if scale is None else scale.flatten()
        head, measure = self._head[0], self._measure
        fused = head is not None and not is_half(tokens.device)
        if head is not None and fused:
            head.instead = lambda hidden, weight, bias: linear_divergence(
                hidden, weight, bias, teacher, flat, measure, factors
            )
        documents = documents_of(self.lm, position_ids)
        out: Tensor = self.lm(input_ids=tokens, **documents, **self._options).logits
        if fused:
            return out
        return divergence(out.flatten(0, 1), teacher, flat, measure, factors)

    def _teacher(
        self, tokens: Tensor, position_ids: Tensor | None, top: tuple[Tensor, ...]
    ) -> Teacher:
        if self._says is not None:
            return self._says(tokens, position_ids)
        return TeacherTop(*(each.flatten(0, 1) for each in top))


class TeacherPass:
    """What a teacher says of tokens: inputs of its output layer, or logits where there are none."""

    def __init__(self, teacher: FrozenModel):
        self._teacher, self._head = teacher, head_of(teacher.lm)
        self._options = options_of(teacher.lm)

    def __call__(self, tokens: Tensor, position_ids: Tensor | None) -> TeacherLogits:
        """Of each token, int64 (rows, seq_len), flat; positions are those for the student."""
        layer: list[Any] = []

        def kept(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            layer.extend([weight, bias])
            return hidden

        if self._head is not None:
            self._head.instead = kept
        documents = documents_of(self._teacher.lm, position_ids)
        out = self._teacher(input_ids=tokens, **documents, **self._options).logits
        return TeacherLogits(out.flatten(0, -2), *layer)


def _check_vocabularies(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse logits that can't be compared one by one."""
    sizes = [getattr(getattr(lm, "config", None), "vocab_size", None) for lm in (student, teacher)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise ConfigError(
            f"objective.teacher: its vocabulary has {sizes[1]} entries, but that of the trained "
            f"model has {sizes[0]}: take a teacher of the same vocabulary"
        )
