"""Validation: the same samples, the same number, at any world size."""

from __future__ import annotations

import numpy as np
import torch

from manta.stream.plan import Corpus, reader_of
from manta.train.engine import Engine


def evaluate(engine: Engine, corpus: Corpus, tokens: int) -> float:
    """Mean loss in nats per valid token over the first `tokens` tokens of a split.

    Samples are cut into forward passes independently of the world size, dealt out to
    ranks, and their sums added in one order in float64: given the same weights, any
    number of ranks gives the same number to the last bit.

    Args:
        engine: the rank's engine; all ranks must call together.
        corpus: the validation split.
        tokens: at most this many are used, in whole samples, at least one sample.
    """
    reader = reader_of(corpus)
    samples = max(1, min(reader.num_samples, tokens // corpus.seq_len))
    width = engine.config.train.micro_batch
    chunks = [np.arange(i, min(i + width, samples)) for i in range(0, samples, width)]
    sums = torch.zeros((len(chunks), 2), dtype=torch.float64, device=engine.device)
    # Every rank makes the same number of forward passes: a sharded model gathers in each.
    for first in range(0, len(chunks), engine.world_size):
        mine = first + engine.rank
        read = reader.read(chunks[min(mine, len(chunks) - 1)])
        loss, count = engine.loss_sums(read)
        if mine < len(chunks):
            sums[mine, 0], sums[mine, 1] = loss, count
    # Each entry has one rank that set it, so the sum over ranks is exact.
    total, count = engine.sum_over_ranks(sums).sum(dim=0).tolist()
    return float(total / count)
