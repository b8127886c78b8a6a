"""The output layer and its cross-entropy as one, which never holds all logits at once.

Logits of some rows at a time become, in place, the gradient of the loss by them but for a factor
of each row, which goes to the narrow matrices of the products instead. From it the gradients of
the inputs follow at once: memory of (tokens × vocabulary) is never needed, and nothing is computed
twice. Where all rows fit, it waits for backward instead. Torch's own `linear_cross_entropy` does
likewise, but rounds the sum to bf16 where the inputs are bf16, and `torch.compile` can't look
into it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
# Bytes of float32 logits at a time, and the fewest rows for all that: each chunk adds once to the
# whole gradient of the weight, which only many rows are worth (benchmarks/RESULTS.md).
CHUNK = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}
LEAST_ROWS = 256
# Share of labels up to which the logits of those that count are worth being computed alone.
FEW_COUNT = 0.9
# The most for an accelerator with room for it, and the share of its memory that it may be.
LARGEST_CHUNK, SHARE = 2 * 2**30, 1 / 40


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    scale: Tensor | None = None,
) -> Tensor:
    """Sum of the cross-entropy in nats over labels that are not IGNORE, float32 scalar.

    Args:
        hidden: (tokens, width).
        weight: (vocabulary, width).
        bias: (vocabulary,), or None.
        labels: int64 (tokens,).
        scale: factor of each label's cross-entropy in the sum, float32 (tokens,); None for 1.

    The products are computed in the type that autocast asks for, else in that of the inputs.
    """
    hidden, weight = as_autocast_asks(hidden, weight)
    rows = rows_that_count(labels)
    if rows is not None:
        hidden, labels = hidden.index_select(0, rows), labels[rows]
        scale = None if scale is None else scale[rows]
    with torch.autocast(hidden.device.type, enabled=False):  # what is summed in float32 stays so
        if not torch.is_grad_enabled():
            return _chunks(hidden, weight, bias, labels, scale, None)
        kind = _Small if len(labels) <= rows_at_once(weight) else _Chunked
        trained = weight.requires_grad
        found = kind.apply(hidden, weight, bias, labels, scale, trained)  # type: ignore[no-untyped-call]
        loss: Tensor = found
        return loss


def label_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> Tensor:
    """The cross-entropy in nats of each label, 0 where it is IGNORE, float32 (tokens,).

    For what is no plain sum of them. Where not all rows fit at once, their logits are computed
    again in the backward pass, as the gradient by each label is not known before.

    Args:
        hidden: (tokens, width).
        weight: (vocabulary, width).
        bias: (vocabulary,), or None.
        labels: int64 (tokens,).
    """
    hidden, weight = as_autocast_asks(hidden, weight)
    rows, count = rows_that_count(labels), len(labels)
    if rows is not None:
        hidden, labels = hidden.index_select(0, rows), labels[rows]
    with torch.autocast(hidden.device.type, enabled=False):
        found = _OfEachLabel.apply(hidden, weight, bias, labels)  # type: ignore[no-untyped-call]
        losses: Tensor = found
        return losses if rows is None else losses.new_zeros(count).index_copy(0, rows, losses)


def rows_that_count(labels: Tensor) -> Tensor | None:
    """The rows whose labels are not IGNORE, if many are: the logits of the others aren't needed.

    None on an accelerator, where the host would have to wait for their number, and in code that is
    compiled, which would be compiled anew for each other number.
    """
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    rows = (labels != IGNORE).nonzero().flatten()
    return rows if len(rows) <= FEW_COUNT * len(labels) else None


def as_autocast_asks(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of the product in the type in which it is to be computed."""
    device = hidden.device.type
    if not torch.is_autocast_enabled(device):
        return hidden, weight
    dtype = torch.get_autocast_dtype(device)
    return hidden.to(dtype), weight.to(dtype)


class _Small(torch.autograd.Function):
    """All rows at once: so few that the gradient by their logits is kept until backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        scale: Tensor | None,
        trained: bool,
    ) -> Tensor:
        losses, slope, factor = _losses_and_slope(hidden, weight, bias, labels, scale)
        ctx.save_for_backward(hidden, weight, bias, slope.to(hidden.dtype), factor)
        ctx.trained = trained
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        hidden, weight, bias, slope, factor = ctx.saved_tensors
        factor = factor * grad
        of_hidden = _by_row(slope @ weight, factor)
        of_weight = slope.T @ _by_row(hidden, factor) if ctx.trained else None
        of_bias = None if bias is None else (slope.float().T @ factor).flatten().to(bias.dtype)
        return of_hidden, of_weight, of_bias, None, None, None


class _Chunked(torch.autograd.Function):
    """Computes the gradients along with the loss, chunk by chunk; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        scale: Tensor | None,
        trained: bool,
    ) -> Tensor:
        gradients = HeadGradients(hidden, weight, bias, trained=trained)
        loss = _chunks(hidden, weight, bias, labels, scale, gradients)
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        hidden, weight, bias = ctx.saved_tensors
        dtype, of_bias = ctx.dtypes
        return (
            hidden * grad.to(hidden.dtype),
            None if weight is None else (weight * grad).to(dtype),
            None if bias is None else (bias * grad).to(of_bias),
            None,
            None,
            None,
        )


class _OfEachLabel(torch.autograd.Function):
    """Computes the loss of each label, and the gradients in backward, both chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
    ) -> Tensor:
        losses = torch.zeros(len(labels), dtype=torch.float32, device=hidden.device)
        kept: list[Tensor] = []
        parts = _slices(len(labels), rows_at_once(weight))
        for rows in parts:
            few, slope, factor = _losses_and_slope(hidden[rows], weight, bias, labels[rows], None)
            losses[rows] = few
            if len(parts) == 1:
                kept = [slope.to(weight.dtype), factor]
        ctx.save_for_backward(hidden, weight, bias, labels, *kept)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        hidden, weight, bias, labels, *kept = ctx.saved_tensors
        gradients = HeadGradients(hidden, weight, bias, trained=ctx.needs_input_grad[1])
        for rows in _slices(len(labels), rows_at_once(weight)):
            slope, factor = (
                kept or _losses_and_slope(hidden[rows], weight, bias, labels[rows], None)[1:]
            )
            gradients.add(rows, slope, factor * grad[rows, None])
        of_weight = None if gradients.weight is None else gradients.weight.to(weight.dtype)
        of_bias = None if gradients.bias is None else gradients.bias.to(bias.dtype)
        return gradients.hidden, of_weight, of_bias, None


class HeadGradients:
    """Gradients of the summed loss, as far as chunks were added; those of parameters in float32.

    Attributes:
        weight: gradient of the output layer's weight; None if that is not trained.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, *, trained: bool):
        self._inputs, self._head = hidden, weight
        self.hidden = torch.empty_like(hidden)
        self.weight = torch.zeros_like(weight, dtype=torch.float32) if trained else None
        self.bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)

    def add(self, rows: slice, slope: Tensor, factor: Tensor) -> None:
        """Add those by way of some rows' logits, whose gradient is `slope × factor`."""
        if self.bias is not None:
            self.bias += (slope.T @ factor).flatten()
        slope = slope.to(self._head.dtype)
        self.hidden[rows] = _by_row(slope @ self._head, factor)
        if self.weight is None:
            return
        inputs = _by_row(self._inputs[rows], factor)
        if slope.dtype == torch.float32:
            self.weight.addmm_(slope.T, inputs)
        elif not torch.compiler.is_compiling() and adds_in_float32(slope.device):
            torch.addmm(self.weight, slope.T, inputs, out_dtype=torch.float32, out=self.weight)
        else:
            self.weight += slope.T @ inputs


def _chunks(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    scale: Tensor | None,
    gradients: HeadGradients | None,
) -> Tensor:
    """The loss, and its `gradients` if they are wanted."""
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for rows in _slices(len(labels), rows_at_once(weight)):
        few = None if scale is None else scale[rows]
        losses, slope, factor = _losses_and_slope(hidden[rows], weight, bias, labels[rows], few)
        loss += losses.sum()
        if gradients is not None:
            gradients.add(rows, slope, factor)
    return loss


def _losses_and_slope(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of some rows, and their gradient by the logits: a slope and a factor of each row.

    The losses are float32 (rows,). The gradient is softmax − one-hot, times the row's scale if
    there is one, and nought for a row whose label is IGNORE. The slope, float32 (rows, vocabulary),
    lacks the division by the sum of exponentials, which is in the factor, float32 (rows, 1).
    """
    logits = F.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype)).float()
    valid = (labels != IGNORE)[:, None]
    index = torch.where(valid, labels[:, None], 0)
    of_labels = logits.gather(1, index)
    largest = logits.amax(1, keepdim=True)
    exponentials = logits.sub_(largest).exp_()
    total = exponentials.sum(1, keepdim=True)
    counted = valid if scale is None else valid * scale[:, None]
    losses = ((largest - of_labels + total.log()) * counted)[:, 0]
    slope = exponentials.scatter_add_(1, index, -total)
    return losses, slope, counted / total


def _slices(count: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, count, size)]


def _by_row(matrix: Tensor, factor: Tensor) -> Tensor:
    """Each row of a narrow matrix, times its factor, in the matrix's own type."""
    return (matrix * factor).to(matrix.dtype)


def rows_at_once(weight: Tensor) -> int:
    """Of how many tokens the logits are held at once."""
    budget = CHUNK.get(weight.device.type, CHUNK["cuda"])
    return max(LEAST_ROWS, budget // (4 * weight.shape[0]))


def chunk_of(memory: int) -> int:
    """Bytes of logits at a time on an accelerator with so many bytes of memory."""
    return max(CHUNK["cuda"], min(LARGEST_CHUNK, int(SHARE * memory)))


@functools.cache
def adds_in_float32(device: torch.device) -> bool:
    """Whether a device adds a product of bf16 matrices to a float32 one without rounding it.

    That saves writing the product, and reading it again. Tried, as not all versions of Torch do it.
    """
    if device.type != "cuda":
        return False
    ones, small = torch.ones((16, 16), dtype=torch.bfloat16, device=device), 2.0**-9
    total = torch.full((16, 16), small, device=device)
    try:
        torch.addmm(total, ones, ones, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 16 + small).all().item())
