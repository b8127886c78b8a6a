"""Validation: the same samples, the same number, at any world size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from manta.config.metrics import VAL_LOSS, VAL_LOSS_OF, VAL_TERM
from manta.objective.weighing import by_name, means_of, shown
from manta.stream.eval_sample import EvalSample
from manta.stream.plan import reader_of
from manta.train.engine import Engine


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        loss: the objective's, over all samples, without auxiliary terms.
        by_source: the same over the samples of each source; empty if there is one source.
        by_term: mean of each of the objective's terms by its metric's name; empty if there is one.
    """

    loss: float
    by_source: dict[str, float] = field(default_factory=dict)
    by_term: dict[str, float] = field(default_factory=dict)

    def as_row(self) -> dict[str, float]:
        """What it adds to a row of metrics."""
        by_source = {VAL_LOSS_OF + source: loss for source, loss in self.by_source.items()}
        return {VAL_LOSS: self.loss, **by_source, **self.by_term}


def evaluate(
    engine: Engine, sample: EvalSample, passing: Callable[[float], None] = lambda share: None
) -> Evaluation:
    """Mean loss over a sample of a split.

    Samples are cut into forward passes of one source each, independently of the world size,
    dealt out to ranks, and their sums added in one order in float64: given the same weights,
    any number of ranks gives the same numbers to the last bit.

    Args:
        engine: the rank's engine; all ranks must call together.
        sample: the validation samples to read.
        passing: called before each forward pass with the share of them that is done, with 0 if a
            rank may compile now; and once more when this rank has done its own.
    """
    reader = reader_of(sample.corpus)
    width = engine.config.train.micro_batch
    chunks, ends = [], [0]
    for stratum in sample.strata:
        ids = sample.ids(stratum)
        chunks += [ids[first : first + width] for first in range(0, len(ids), width)]
        ends.append(len(chunks))
    terms = engine.objective.terms
    sums = torch.zeros((len(chunks), 2, len(terms)), dtype=torch.float64, device=engine.device)
    most = max(map(len, chunks), default=1)
    compiles = False
    # Every rank makes the same number of forward passes: a sharded model gathers in each.
    for first in range(0, len(chunks), engine.ranks.world_size):
        compiles = engine.compiles_for("evaluation")
        passing(0.0 if compiles else first / len(chunks))
        mine = first + engine.ranks.rank
        read = reader.read(chunks[min(mine, len(chunks) - 1)])
        found, weights = engine.measure(read, most)
        if mine < len(chunks):
            sums[mine, 0], sums[mine, 1] = found, weights
    passing(0.0 if compiles else 1.0)
    # Each entry has one rank that set it, so the sum over ranks is exact.
    table = engine.ranks.sum(sums).cpu().numpy()
    by_source = {
        stratum.source: shown(terms, _means(table[first:end]))
        for stratum, first, end in zip(sample.strata, ends, ends[1:], strict=False)
        if table[first:end, 1].any()
    }
    means = _means(table)
    return Evaluation(
        loss=shown(terms, means),
        by_source=by_source if len(sample.strata) > 1 else {},
        by_term=by_name(engine.objective, means, VAL_TERM),
    )


def _means(table: NDArray[np.float64]) -> list[float]:
    """Of each term, from sums and weights, shape (chunks, 2, terms)."""
    sums, weights = table.sum(axis=0)
    return means_of(sums.tolist(), weights.tolist())
