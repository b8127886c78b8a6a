"""Is an objective exact? Tried, as gradcheck tries a gradient, on a small model and batch.

The batch is computed as a whole and then over many splits: over ranks that each have their own
share, one of them without rows, over forward passes of any size, with blank rows beside them. Sums,
weights and gradients must be the same but for rounding.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from manta.config.errors import ConfigError
from manta.model.randomness import is_drop
from manta.objective.protocol import FrozenModel, Models, Objective
from manta.objective.weighing import Weighing
from manta.sample.columns import Columns, Ragged, sliced

# Of the largest value, between two orders of additions. Models compute in float64 but for parts
# that convert to float32 whatever they are given, such as norms.
REL = 1e-5
SPLITS = 4
BLANK = 3  # rows beside the real ones
CPU = torch.device("cpu")

BatchNorm = nn.modules.batchnorm._BatchNorm
# Why an objective is refused, after the name of its term.
RANDOM = (
    "draws random numbers, which each rank draws for itself: make them a function of the sample"
)
SPLIT_WEIGHT = (
    "has a weight that depends on the split: weights of shares must add up to the weight of the "
    "whole batch, as a count of samples or of labels does"
)
BLANK_ROWS = "counts blank rows: a row that only fills a forward pass up must add nothing"
NO_ROWS = "adds something on a rank without rows"
NO_GRADIENT = "has a gradient that depends on the split, although its sum does not"
MEAN = (
    "is a mean over the rows of a forward pass, and a mean of such means depends on how rows are "
    "split: return the sum, and what divides it as the weight"
)
OTHER_ROWS = (
    "is no sum over samples: what it adds for a row depends on the other rows of the forward pass; "
    "sum something that each sample has by itself"
)
BATCH_NORM = (
    "is no sum over samples: there is batch norm in training, which mixes the samples of a forward "
    "pass; take group norm, or freeze it: have its `train` leave it in eval mode"
)

Share = list[slice]  # of one rank: the rows of each of its forward passes


class NotExactError(ConfigError):
    """An objective that depends on how samples are laid over ranks and forward passes."""


@dataclass(frozen=True)
class _Found:
    """What an objective gives over all rows of a batch."""

    sums: Tensor
    gradients: Tensor


def check_objective(
    objective: Objective,
    model: nn.Module,
    batch: Columns,
    seed: int = 0,
    *,
    frozen: nn.Module | None = None,
) -> None:
    """Raise if an objective is not exact for a model and a batch.

    An objective is exact if each of its terms is a sum over samples, and its weight a sum over
    samples that is known before the forward pass. How samples are laid over ranks and forward
    passes then changes the order of additions and nothing else.

    Args:
        objective: the objective to check.
        model: a small one, on the CPU; a copy of it is used, in float64, its dropout turned off.
        batch: columns of at least four samples that are as unlike as in training: a mean over them
            differs from one over shares only if their weights differ.
        seed: seed of the random splits.
        frozen: small model that the objective compares with, if it needs one; likewise copied.

    Raises:
        NotExactError: naming the term and the law that does not hold.
        ConfigError: if it can't be tried: the batch is too small, or shapes are wrong.
    """
    with torch.random.fork_rng(devices=[]):
        _Check(objective, model, batch, seed, frozen).run()


def _as_float64(column: Any) -> Any:
    """A column as a model in float64 takes it."""
    floats = isinstance(column, np.ndarray) and column.dtype.kind == "f"
    return column.astype(np.float64) if floats else column


def _in_float64(model: nn.Module) -> nn.Module:
    """A copy of a model, in float64."""
    copied = copy.deepcopy(model).double()
    if isinstance(copied, PreTrainedModel):
        copied.set_experts_implementation("eager")  # the grouped product has no float64
    return copied


class _Check:
    def __init__(
        self,
        objective: Objective,
        model: nn.Module,
        batch: Columns,
        seed: int,
        frozen: nn.Module | None,
    ):
        self._objective, self._batch = objective, {n: _as_float64(c) for n, c in batch.items()}
        self._rows = _rows_of(batch)
        if self._rows < 4:
            raise ConfigError(f"check_objective needs at least 4 samples, not {self._rows}")
        self._name = type(objective).__name__
        self._terms = [term.name for term in objective.terms]
        trained = _in_float64(model).train()
        for module in trained.modules():
            if is_drop(module):
                module.p = 0.0  # type: ignore[assignment]  # whether a model draws is not the objective's business
        beside = None if frozen is None else FrozenModel(_in_float64(frozen))
        self._models = Models(trained, beside)
        self._module = objective.module(self._models).train()
        self._state = [buffer.clone() for buffer in self._module.buffers()]
        self._weighing = Weighing(objective.terms, CPU)
        self._draw = random.Random(seed)

    def run(self) -> None:
        """Raise NotExactError at the first law that does not hold."""
        all_rows = [[slice(0, self._rows)]]
        self._whole_weights = self._weights(all_rows)
        whole = self._over(all_rows)
        self._check_finite(whole)
        self._compare(self._over(all_rows, seed=1), whole, RANDOM)
        splits = list(self._splits())
        for split in splits:
            found = self._weights(split)
            if not _same(found, self._whole_weights):
                raise self._refused(found, self._whole_weights, SPLIT_WEIGHT)
        for split in splits:
            over = self._over(split)
            same = _same(over.sums, whole.sums)
            self._compare(over, whole, NO_GRADIENT if same else self._why_no_sum(whole))
        self._compare(self._over(all_rows, width=self._rows + BLANK), whole, BLANK_ROWS)
        nothing = [slice(self._rows, self._rows)]
        self._compare(self._over([*all_rows, nothing]), whole, NO_ROWS)

    def _splits(self) -> Iterator[list[Share]]:
        """Ways to lay the batch over ranks, and each share over forward passes."""
        rows = self._rows
        yield [[slice(row, row + 1) for row in range(rows)]]
        yield [[slice(0, 1)], [slice(1, rows)]]
        for _ in range(SPLITS):
            ranks = self._draw.randint(2, rows)
            yield [
                [slice(first, end) for first, end in self._cut(share.start, share.stop)]
                for share in (slice(*ends) for ends in self._cut(0, rows, ranks))
            ]

    def _cut(self, first: int, end: int, parts: int = 0) -> list[tuple[int, int]]:
        """Cut [first, end) into some parts, at least one row each."""
        parts = parts or self._draw.randint(1, end - first)
        inner = sorted(self._draw.sample(range(first + 1, end), parts - 1))
        ends = [first, *inner, end]
        return list(pairwise(ends))

    def _weights(self, split: Sequence[Share]) -> Tensor:
        """Of all ranks, summed."""
        shares = (sliced(self._batch, slice(s[0].start, s[-1].stop)) for s in split)
        return sum(
            (self._weights_of(share) for share in shares), torch.zeros(len(self._terms)).double()
        )

    def _weights_of(self, share: Columns) -> Tensor:
        weights = self._objective.weights(self._objective.inputs(share, CPU))
        self._check_shape(weights, "weights()")
        if weights.requires_grad:
            raise self._error("its weights have a gradient: they are counts, known before any pass")
        return weights.double()

    def _over(self, split: Sequence[Share], *, width: int = 1, seed: int = 0) -> _Found:
        """Sums and gradients of all ranks, each rank with a random state of its own."""
        self._module.zero_grad(set_to_none=True)
        for buffer, value in zip(self._module.buffers(), self._state, strict=True):
            buffer.data.copy_(value)
        sums = torch.zeros(len(self._terms)).double()
        for rank, share in enumerate(split):
            torch.manual_seed(1000 * seed + rank)
            first = share[0].start
            inputs = self._objective.inputs(sliced(self._batch, slice(first, share[-1].stop)), CPU)
            for rows in share:
                here = slice(rows.start - first, rows.stop - first)
                found = self._called(*inputs.rows(here, width), empty=here.start == here.stop)
                self._check_shape(found, "the module's sums")
                sums += found.detach().double()
                loss = self._weighing.for_backward(found, self._whole_weights, 1)
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
        return _Found(sums, self._gradients())

    def _called(self, *given: Any, empty: bool) -> Tensor:
        """The module's sums of a forward pass, which may be `empty`."""
        try:
            sums: Tensor = self._module(*given)
        except Exception as error:
            if self._mixes():
                raise self._error(f"a term {BATCH_NORM}") from error
            if not empty:
                raise
            raise self._error(
                "it fails on a rank without rows, which has to join the exchange of gradients: "
                f"{type(error).__name__}: {error}"
            ) from error
        return sums

    def _gradients(self) -> Tensor:
        """Of all parameters, flat."""
        return torch.cat(
            [
                (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
                for p in self._module.parameters()
                if p.requires_grad
            ]
        )

    def _check_shape(self, values: Tensor, what: str) -> None:
        if tuple(values.shape) != (len(self._terms),):
            count = len(self._terms)
            raise ConfigError(
                f"{self._name}: {what} must have one number a term, shape ({count},) for "
                f"{', '.join(self._terms)}; the shape is {tuple(values.shape)}"
            )

    def _check_finite(self, whole: _Found) -> None:
        if not bool(whole.sums.isfinite().all() and whole.gradients.isfinite().all()):
            raise self._error("its sums or gradients are not finite")
        if not bool((self._whole_weights > 0).all()):
            raise self._error("a weight of the whole batch is not above 0: nothing counts in it")

    def _compare(self, found: _Found, whole: _Found, why: str) -> None:
        if self._mixes():
            why = BATCH_NORM
        if not _same(found.sums, whole.sums):
            raise self._refused(found.sums, whole.sums, why)
        if not _same(found.gradients, whole.gradients):
            far = float((found.gradients - whole.gradients).norm() / whole.gradients.norm())
            raise self._error(f"its gradient differs by {far:.1e} of its norm: a term {why}")

    def _mixes(self) -> bool:
        """Whether there is batch norm in training."""
        return any(m.training for m in self._module.modules() if isinstance(m, BatchNorm))

    def _why_no_sum(self, whole: _Found) -> str:
        """Why sums over shares don't add up, as far as it can be told."""
        if _same(self._doubled(), whole.sums):
            return MEAN
        return OTHER_ROWS

    def _doubled(self) -> Tensor:
        """The sums of a batch that has each sample twice."""
        batch, rows = self._batch, self._rows
        try:
            self._batch, self._rows = _twice(batch), 2 * rows
            return self._over([[slice(0, 2 * rows)]]).sums
        finally:
            self._batch, self._rows = batch, rows

    def _refused(self, found: Tensor, whole: Tensor, why: str) -> NotExactError:
        index = int(((found - whole).abs() / (whole.abs() + 1e-30)).argmax())
        values = f"{float(found[index]):.9g} in place of {float(whole[index]):.9g}"
        return NotExactError(f"{self._name}: its term '{self._terms[index]}' {why} ({values})")

    def _error(self, why: str) -> NotExactError:
        return NotExactError(f"{self._name}: {why}")


def _same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= REL * other.abs().max())


def _rows_of(batch: Columns) -> int:
    return len(next(iter(batch.values()))) if batch else 0


def _twice(batch: Columns) -> Columns:
    """Each sample of a batch twice."""
    return {name: _repeated(column) for name, column in batch.items()}


def _repeated(column: Any) -> Any:
    if not isinstance(column, Ragged):
        return np.concatenate([column, column])
    lengths = np.concatenate([column.lengths, column.lengths])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    return Ragged(np.concatenate([column.flat, column.flat]), bounds)
