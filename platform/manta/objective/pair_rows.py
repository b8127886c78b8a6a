"""Rows of tokens with pairs of conversations, on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manta.objective.causal import TokenRows
from manta.parallel.host_to_device import to_device
from manta.sample.chat import conversation_of
from manta.sample.columns import Columns, Ragged


class PairsInRows:
    """Which pairs are in rows.

    As one object, and no tuple, it tells `torch.compile` nothing of the number of pairs, which is
    another one in each forward pass.

    Attributes:
        answers: number of the conversation in its row that a label is of, int64 (rows, seq_len).
        there: pairs that a row has, of as many as any has, bool (rows, most).
        reference: log-probability of each answer by the reference, float64 (rows, most, 2); None
            where samples don't bring it.
    """

    def __init__(self, answers: Tensor, there: Tensor, reference: Tensor | None = None):
        self.answers, self.there, self.reference = answers, there, reference

    @classmethod
    def of(cls, batch: Columns, device: torch.device, reference: str | None = None) -> PairsInRows:
        """The pairs of a batch.

        Args:
            batch: columns of pairs.
            device: device of the tensors.
            reference: column with the reference's log-probabilities of each row, if there is one.
        """
        numbers = conversation_of(batch)
        answers = np.zeros_like(numbers)
        answers[:, :-1] = (numbers - numbers[:, :1])[:, 1:]  # label i is token i + 1
        counts = batch["starts"].lengths // 2  # padding may be one more
        there = np.arange(counts.max(initial=1)) < counts[:, None]
        columns = [answers, there]
        if reference is not None:
            given: Ragged = batch[reference]
            compared = np.zeros((*there.shape, 2))
            compared[there] = given.flat.reshape(-1, 2)
            columns.append(compared)
        return cls(*(to_device(torch.from_numpy(column), device) for column in columns))

    def rows(self, rows: slice, blank: int) -> PairsInRows:
        """Those of some rows, with so many blank ones, which have none."""
        given = [self.answers, self.there]
        if self.reference is not None:
            given.append(self.reference)
        return PairsInRows(*(_with_blank(one[rows], blank) for one in given))

    def sums(self, values: Tensor) -> Tensor:
        """Sums over the labels of each answer, float64 (rows, most, 2).

        Args:
            values: a value of each label, (rows, seq_len).
        """
        rows, most = self.there.shape
        numbers = torch.arange(2 * most, device=values.device)
        of_answer = self.answers[:, None] == numbers[:, None]  # (rows, 2 · most, seq_len)
        # No scatter, which on a GPU adds in another order each time.
        apart = torch.where(of_answer, values.double()[:, None], 0.0)
        return apart.sum(-1).view(rows, most, 2)


def _with_blank(rows: Tensor, blank: int) -> Tensor:
    return F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, blank))


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
