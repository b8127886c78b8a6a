"""Distillation: a student learns to say what a frozen teacher would say of each token."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from manta.config.errors import ConfigError
from manta.model.divergence import Measure, Teacher, divergence, linear_divergence
from manta.model.forward import documents_of, options_of
from manta.model.loss_head import head_of
from manta.objective.causal import Causal, TokenRows, is_half
from manta.objective.protocol import DeviceRows, FrozenModel, Models, Term
from manta.objective.sft import SupervisedFineTuning
from manta.sample.columns import Columns


class Distillation:
    """The mean over labels of a divergence from the teacher, mixed with the cross-entropy.

    `manta.model.divergence.Measure` has the formula. Of conversations, answers alone have labels;
    of text, all tokens but the first. What is trained on is the term `distill`; beside it the mean
    divergence and the mean cross-entropy are shown, which mean the same at any setting.

    Args:
        measure: divergence from the teacher, and its share in the loss.
        document_mask: whether attention stays within a document.
        per: unit that means are taken over, as for `SupervisedFineTuning`.
    """

    columns: frozenset[str] = Causal.columns
    terms: tuple[Term, ...] = (
        Term("distill"),
        Term("divergence", 0.0),
        Term("cross_entropy", 0.0),
    )

    def __init__(
        self,
        measure: Measure,
        *,
        document_mask: bool = False,
        per: Literal["token", "sequence"] = "token",
    ):
        self._measure = measure
        self._text = Causal(document_mask=document_mask)
        self._chats = SupervisedFineTuning(document_mask=document_mask, per=per)

    def module(self, models: Models) -> nn.Module:
        """Sums loss, divergence and cross-entropy of its rows.

        Raises:
            ConfigError: if teacher and student have other vocabularies.
        """
        assert models.frozen is not None
        return DistillationLoss(models.trained, models.frozen, self._measure)

    def inputs(self, batch: Columns, device: torch.device) -> TokenRows:
        """Tokens and their labels, as the corpus has them."""
        return (self._chats if "supervised" in batch else self._text).inputs(batch, device)

    def weights(self, inputs: DeviceRows) -> Tensor:
        """How many labels count, or conversations, the same for each term, int64 (3,)."""
        return self._chats.weights(inputs).expand(len(self.terms))


class DistillationLoss(nn.Module):
    """A causal LM that returns the sums of loss, divergence from a teacher and cross-entropy."""

    def __init__(self, lm: nn.Module, teacher: FrozenModel, measure: Measure):
        super().__init__()
        _check_vocabularies(lm, teacher.lm)
        self.lm, self._measure = lm, measure
        self._said = _Said(teacher)
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
        """Sums over labels that are not IGNORE, (3,).

        Args:
            tokens: int64 (rows, seq_len).
            labels: int64 (rows, seq_len), already shifted: label i is token i + 1.
            position_ids: int64 (rows, seq_len), restarting at each document, to keep
                attention within documents; None for plain causal attention.
            scale: factor of each label in the sums, float32 (rows, seq_len); None for 1.
        """
        teacher = self._said(tokens, position_ids)
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


class _Said:
    """What a teacher says of tokens: inputs of its output layer, or logits where there are none."""

    def __init__(self, teacher: FrozenModel):
        self._teacher, self._head = teacher, head_of(teacher.lm)
        self._options = options_of(teacher.lm)

    def __call__(self, tokens: Tensor, position_ids: Tensor | None) -> Teacher:
        layer: list[Any] = []

        def kept(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            layer.extend([weight, bias])
            return hidden

        if self._head is not None:
            self._head.instead = kept
        documents = documents_of(self._teacher.lm, position_ids)
        out = self._teacher(input_ids=tokens, **documents, **self._options).logits
        return Teacher(out.flatten(0, -2), *layer)


def _check_vocabularies(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse logits that can't be compared one by one."""
    sizes = [getattr(getattr(lm, "config", None), "vocab_size", None) for lm in (student, teacher)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise ConfigError(
            f"objective.teacher: its vocabulary has {sizes[1]} entries, but that of the trained "
            f"model has {sizes[0]}: take a teacher of the same vocabulary"
        )
