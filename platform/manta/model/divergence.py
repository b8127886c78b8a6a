"""How far the next token's distribution is from a teacher's, without holding all logits of either.

Logits of both models are computed for some tokens at a time, and the gradients by the student's
output layer follow at once, as in `cross_entropy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from manta.model.cross_entropy import (
    IGNORE,
    LEAST_ROWS,
    HeadGradients,
    as_autocast_asks,
    rows_at_once,
    rows_that_count,
)

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]
# Sums that a comparison gives: the loss, the divergence, the cross-entropy of the labels.
SUMS = 3
# Copies of some tokens' logits that are held at once, in one form or another.
HELD = 5


@dataclass(frozen=True)
class Measure:
    """What is trained on: a divergence from the teacher, mixed with the cross-entropy of labels.

    With the teacher's probabilities P and the student's Q, both softmax(logits / T) at temperature
    T, the loss of a token is ::

        kd_ratio · T² · D(P, Q) + (1 - kd_ratio) · cross-entropy of the label at T = 1

    T² keeps the size of the divergence's gradient, which shrinks by 1/T², the same at any
    temperature (Hinton et al., 2015, arXiv:1503.02531, section 2).

    Attributes:
        divergence: distance D. forward_kl is KL(P‖Q) = Σ P log(P/Q) (Hinton et al., 2015), which
            has the student cover all that the teacher may say; reverse_kl is KL(Q‖P), which has it
            say nothing that the teacher would not (Gu et al., 2024, arXiv:2306.08543, MiniLLM,
            section 2.1; here over the corpus's tokens); jsd is the generalised Jensen-Shannon
            divergence β KL(P‖M) + (1 - β) KL(Q‖M) with M = βP + (1 - β)Q (Agarwal et al., 2024,
            arXiv:2306.13649, GKD, equation 1).
        kd_ratio: share of the divergence, from 0 to 1.
        temperature: T, above 0.
        jsd_beta: β, between 0 and 1.
    """

    divergence: Divergence = "forward_kl"
    kd_ratio: float = 1.0
    temperature: float = 1.0
    jsd_beta: float = 0.5


class Teacher(Protocol):
    """What a teacher says of some tokens."""

    def as_autocast_asks(self) -> Teacher:
        """The same, with the factors of products in the type in which they are computed."""
        ...

    def taken(self, rows: Tensor) -> Teacher:
        """What it says of some of the tokens, int64 (rows,)."""
        ...

    def apart(self, rows: slice, log_q: Tensor, measure: Measure) -> tuple[Tensor, Tensor]:
        """The divergence of a student from it, (rows, 1), and the gradient of that.

        Args:
            rows: some of the tokens.
            log_q: logarithms of the student's probabilities at the measure's temperature, (rows,
                vocabulary).
            measure: divergence to compute.

        Returns:
            The gradient, (rows, vocabulary), is by the student's logits divided by the temperature.
            It lies in memory of its own.
        """
        ...


@dataclass(frozen=True)
class TeacherLogits:
    """The teacher's logits of some tokens, or what they are computed from.

    Attributes:
        hidden: inputs of its output layer, (tokens, width); or logits, (tokens, vocabulary).
        weight: weight of that layer, (vocabulary, width); None if `hidden` has logits.
        bias: the layer's bias, (vocabulary,), if it has one.
    """

    hidden: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None

    def as_autocast_asks(self) -> TeacherLogits:
        """The inputs and the weight of the output layer in the type that autocast asks for."""
        if self.weight is None:
            return self
        return TeacherLogits(*as_autocast_asks(self.hidden, self.weight), self.bias)

    def taken(self, rows: Tensor) -> TeacherLogits:
        """Of some of the tokens; see `Teacher`."""
        return TeacherLogits(self.hidden.index_select(0, rows), self.weight, self.bias)

    def _log_probs(self, rows: slice, temperature: float) -> Tensor:
        """Logarithms of the probabilities of some tokens, at least float32, in their own memory."""
        hidden = self.hidden[rows]
        if self.weight is None:
            return _log_softmax_(_wide(hidden) / temperature)
        return _log_softmax_(_logits(hidden, self.weight, self.bias).div_(temperature))

    def apart(self, rows: slice, log_q: Tensor, measure: Measure) -> tuple[Tensor, Tensor]:
        """By all tokens of the vocabulary; see `Teacher`."""
        log_p = self._log_probs(rows, measure.temperature).to(log_q.dtype)
        return DIVERGENCES[measure.divergence](log_p, log_q, measure.jsd_beta)

    def top(self, count: int, temperature: float) -> TeacherTop:
        """The most likely tokens by themselves and the others together."""
        layer, found = self.as_autocast_asks(), list[TeacherTop]()
        with torch.autocast(self.hidden.device.type, enabled=False):
            size = rows_at_once(self.hidden.T if self.weight is None else self.weight)
            for first in range(0, len(self.hidden), size):
                log_p = layer._log_probs(slice(first, first + size), temperature)
                log_probs, tokens = log_p.topk(count, 1)
                tail = log_p.scatter_(1, tokens, -math.inf).logsumexp(1)
                found.append(TeacherTop(tokens, log_probs, tail))
        return TeacherTop(
            torch.cat([each.tokens for each in found]),
            torch.cat([each.log_probs for each in found]),
            torch.cat([each.tail for each in found]),
        )


@dataclass(frozen=True)
class TeacherTop:
    """The teacher's probabilities of its most likely tokens, and of all others together.

    The divergence is that of distributions over these tokens and the rest as one more: it is at
    most the whole one, and 0 where the student says the same. To leave the rest out instead would
    have the student give it no probability (Anshumann et al., 2025, arXiv:2503.16870, section 3).

    Attributes:
        tokens: int64 (tokens, count).
        log_probs: logarithms of their probabilities, float32 (tokens, count), at the temperature at
            which they are compared.
        tail: logarithm of the probability of all others together, float32 (tokens,).
    """

    tokens: Tensor
    log_probs: Tensor
    tail: Tensor

    def as_autocast_asks(self) -> TeacherTop:
        """The same: nothing is multiplied."""
        return self

    def taken(self, rows: Tensor) -> TeacherTop:
        """Of some of the tokens; see `Teacher`."""
        return TeacherTop(self.tokens[rows], self.log_probs[rows], self.tail[rows])

    def apart(self, rows: slice, log_q: Tensor, measure: Measure) -> tuple[Tensor, Tensor]:
        """By the most likely tokens and the rest; see `Teacher`."""
        tokens = self.tokens[rows]
        log_p = torch.cat([self.log_probs[rows], self.tail[rows, None]], 1).to(log_q.dtype)
        others = log_q.scatter(1, tokens, -math.inf)
        rest = others.logsumexp(1, keepdim=True)
        log_classes = torch.cat([log_q.gather(1, tokens), rest], 1)
        apart, slope = DIVERGENCES[measure.divergence](log_p, log_classes, measure.jsd_beta)
        # What the rest gets is shared out by the student's own probabilities within it.
        spread = others.sub_(rest).exp_().mul_(slope[:, -1:])
        return apart, spread.scatter_(1, tokens, slope[:, :-1])


def linear_divergence(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    teacher: Teacher,
    labels: Tensor,
    measure: Measure,
    scale: Tensor | None = None,
) -> Tensor:
    """Sums of loss, divergence and cross-entropy over labels that are not IGNORE, (3,).

    In nats; the loss alone has a gradient. The divergence is without T².

    Args:
        hidden: inputs of the student's output layer, (tokens, width).
        weight: (vocabulary, width).
        bias: (vocabulary,), or None.
        teacher: logits of the teacher, of the same tokens and vocabulary.
        labels: int64 (tokens,).
        measure: divergence from the teacher, and its share in the loss.
        scale: factor of each label in the sums, float32 (tokens,); None for 1.
    """
    hidden, weight = as_autocast_asks(hidden, weight)
    teacher = teacher.as_autocast_asks()
    rows = rows_that_count(labels)
    if rows is not None:
        hidden, teacher, labels = hidden.index_select(0, rows), teacher.taken(rows), labels[rows]
        scale = None if scale is None else scale[rows]
    with torch.autocast(hidden.device.type, enabled=False):
        trained = torch.is_grad_enabled(), weight.requires_grad
        found = _Chunked.apply(hidden, weight, bias, teacher, labels, measure, scale, *trained)  # type: ignore[no-untyped-call]
        sums: Tensor = found
        return sums


def divergence(
    logits: Tensor,
    teacher: Teacher,
    labels: Tensor,
    measure: Measure,
    scale: Tensor | None = None,
) -> Tensor:
    """As `linear_divergence`, of a student whose logits there are: (tokens, vocabulary)."""
    teacher = teacher.as_autocast_asks()
    with torch.autocast(logits.device.type, enabled=False):
        found = _Whole.apply(_wide(logits), teacher, labels, measure, scale)  # type: ignore[no-untyped-call]
        sums: Tensor = found
        return sums


class _Chunked(torch.autograd.Function):
    """Computes the gradients along with the sums, chunk by chunk; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher: Teacher,
        labels: Tensor,
        measure: Measure,
        scale: Tensor | None,
        trains: bool,
        trains_head: bool,
    ) -> Tensor:
        gradients = None
        if trains:
            gradients = HeadGradients(hidden, weight, bias, trained=trains_head)
        sums = torch.zeros(SUMS, dtype=torch.float32, device=hidden.device)
        size = max(LEAST_ROWS, rows_at_once(weight) // HELD)
        for first in range(0, len(labels), size):
            rows = slice(first, first + size)
            student = _logits(hidden[rows], weight, bias)
            few = None if scale is None else scale[rows]
            part, slope, factor = _sums_and_slope(
                student, teacher, rows, labels[rows], measure, few
            )
            sums += part
            if gradients is not None:
                gradients.add(rows, slope, factor)
        if gradients is not None:
            ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        hidden, weight, bias = ctx.saved_tensors
        dtype, of_bias = ctx.dtypes
        grad = grad[0]
        return (
            hidden * grad.to(hidden.dtype),
            None if weight is None else (weight * grad).to(dtype),
            None if bias is None else (bias * grad).to(of_bias),
            *[None] * 6,
        )


class _Whole(torch.autograd.Function):
    """The same by all logits of the student."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        teacher: Teacher,
        labels: Tensor,
        measure: Measure,
        scale: Tensor | None,
    ) -> Tensor:
        every = slice(0, len(labels))
        sums, slope, factor = _sums_and_slope(
            logits.clone(), teacher, every, labels, measure, scale
        )
        ctx.save_for_backward(slope, factor)
        return sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        slope, factor = ctx.saved_tensors
        return slope * (factor * grad[0]), *[None] * 4


def _sums_and_slope(
    student: Tensor,
    teacher: Teacher,
    rows: slice,
    labels: Tensor,
    measure: Measure,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of some tokens, (3,); and the loss's gradient by the student's logits.

    That is a slope, (rows, vocabulary), times a factor of each row, (rows, 1). The logits are
    overwritten: each copy of them takes as much memory as they do.
    """
    ratio, temperature = measure.kd_ratio, measure.temperature
    valid = (labels != IGNORE)[:, None]
    factor = valid.to(student.dtype) if scale is None else valid * scale[:, None]
    index = torch.where(valid, labels[:, None], 0)
    # As the teacher's are computed, so that the same logits give the same to the bit.
    tempered = None if temperature == 1 else _log_softmax_(student / temperature)
    log_plain = _log_softmax_(student)
    log_q = log_plain if tempered is None else tempered
    cross_entropy = -log_plain.gather(1, index)
    apart, slope = teacher.apart(rows, log_q, measure)
    slope *= ratio * temperature
    if ratio < 1:
        hard = log_plain.exp_().scatter_add_(1, index, torch.full_like(cross_entropy, -1))
        slope.add_(hard, alpha=1 - ratio)
    loss = ratio * temperature**2 * apart + (1 - ratio) * cross_entropy
    sums = (torch.cat([loss, apart, cross_entropy], 1) * factor).sum(0)
    return sums, slope, factor


def _forward_kl(log_p: Tensor, log_q: Tensor, _beta: float) -> tuple[Tensor, Tensor]:
    """KL(P‖Q), whose gradient by the logits over T is Q - P."""
    p = log_p.exp()
    apart = log_p.sub_(log_q).mul_(p).sum(1, keepdim=True)
    return apart, torch.exp(log_q, out=log_p).sub_(p)


def _reverse_kl(log_p: Tensor, log_q: Tensor, _beta: float) -> tuple[Tensor, Tensor]:
    """KL(Q‖P), whose gradient by the logits over T is Q (log(Q/P) - KL)."""
    q, ratio = log_q.exp(), torch.sub(log_q, log_p, out=log_p)
    apart = (q * ratio).sum(1, keepdim=True)
    return apart, ratio.sub_(apart).mul_(q)


def _jsd(log_p: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """β KL(P‖M) + (1-β) KL(Q‖M), with the gradient (1-β) Q (log(Q/M) - KL(Q‖M)).

    By Q itself that is (1-β) log(Q/M): what M = βP + (1-β)Q changes by adds up to a constant.
    """
    p, q = log_p.exp(), log_q.exp()
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    ratio = log_q - log_m
    of_q = (q * ratio).sum(1, keepdim=True)
    apart = beta * log_p.sub_(log_m).mul_(p).sum(1, keepdim=True) + (1 - beta) * of_q
    return apart, ratio.sub_(of_q).mul_(q).mul_(1 - beta)


# Each gives the divergence of each row, (rows, 1), and its gradient by logits over T, which may lie
# where the teacher's log probabilities lay; these are overwritten.
DIVERGENCES: dict[Divergence, Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jsd": _jsd,
}


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _wide(F.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype)))


def _log_softmax_(logits: Tensor) -> Tensor:
    """The logarithms of the softmax of each row, in place."""
    return logits.sub_(logits.logsumexp(1, keepdim=True))


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
