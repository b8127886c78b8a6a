"""From the sums and weights of terms to the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from manta.objective.protocol import Objective, Term


class Weighing:
    """The terms of an objective, weighed on one device.

    Attributes:
        terms: the objective's terms, in the order of sums and weights.
    """

    def __init__(self, terms: Sequence[Term], device: torch.device):
        self.terms = tuple(terms)
        self._coefficients = torch.tensor([term.coefficient for term in terms], device=device)
        trained = [index for index, term in enumerate(terms) if term.coefficient]
        # None if all are: nothing has to be picked then.
        self._trained = torch.tensor(trained, device=device) if len(trained) < len(terms) else None

    def loss(self, sums: Tensor, weights: Tensor) -> Tensor:
        """The loss that is trained on, scalar; a rank's part of it for a rank's sums."""
        means = self._picked(self._coefficients * sums / divisors(weights))
        return means.sum()

    def for_backward(self, sums: Tensor, weights: Tensor, ranks: int) -> Tensor:
        """What a rank's backward pass begins with, scalar.

        Args:
            sums: sum of each term over a forward pass, shape (terms,).
            weights: weight of each term over the global batch, shape (terms,).
            ranks: number of ranks, over which data parallelism averages gradients.
        """
        scales = self._picked(self._coefficients * ranks / divisors(weights))
        sums = self._picked(sums)
        return (sums * _poisoned(scales, sums.detach())).sum()

    def _picked(self, values: Tensor) -> Tensor:
        """Those of the terms that are trained on."""
        return values if self._trained is None else values[self._trained]


def divisors(weights: Tensor) -> Tensor:
    """The weights, and 1 for a term that nothing in the batch counts for."""
    return weights.masked_fill(weights == 0, 1)


def _poisoned(scales: Tensor, sums: Tensor) -> Tensor:
    """The factors of sums, so that one that is not finite makes every gradient not finite.

    An infinite sum can have a finite gradient; the check is on the gradient's norm,
    which all ranks share. Nought times the sum is nought, or else NaN.
    """
    return scales + 0 * sums


def means_of(sums: Iterable[float], weights: Iterable[float]) -> list[float]:
    """Each term's mean on the host; NaN where nothing counted."""
    return [total / (weight or math.nan) for total, weight in zip(sums, weights, strict=True)]


def shown(terms: Sequence[Term], means: Sequence[float]) -> float:
    """The loss as people see it, without auxiliary terms."""
    return sum(
        term.shown_factor * mean
        for term, mean in zip(terms, means, strict=True)
        if term.shown_factor
    )


def by_name(objective: Objective, means: Sequence[float], before: str) -> dict[str, float]:
    """The mean of each term, and what follows from them, for a row of metrics.

    Nothing where the loss is the only one.
    """
    if len(objective.terms) == 1:
        return {}
    pairs = zip(objective.terms, means, strict=True)
    named = {before + term.name: mean for term, mean in pairs if term.shown}
    figures = getattr(objective, "figures", None)
    if figures is not None:
        named |= {before + name: value for name, value in figures(means).items()}
    return named
