"""Batches of documents and of chats, and a model, small enough to be split in many ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from manta.sample.columns import Columns, Ragged

LENGTH = 16
# (length, supervised spans) of the conversations of each row; the rest of a row is padding.
ROWS = [
    [(6, [(2, 4)]), (5, [(1, 2), (4, 5)])],
    [(16, [(3, 16)])],
    [(4, [(1, 4)]), (4, [(3, 4)]), (8, [(2, 3)])],
    [(3, [(1, 2)])],
    [(9, [(5, 9)]), (7, [(2, 7)])],
    [(10, [(1, 3), (6, 9)])],
]


def ragged(lists: list[list[int]]) -> Ragged:
    bounds = np.cumsum([0, *map(len, lists)]).astype(np.int32)
    return Ragged(np.array([value for one in lists for value in one], np.int32), bounds)


def chats(rows: Any = ROWS, padding: int = 0, seed: int = 1) -> Columns:
    tokens = np.random.default_rng(seed).integers(0, 61, (len(rows), LENGTH)).astype(np.uint16)
    starts: list[list[int]] = []
    supervised: list[list[int]] = []
    lengths = []
    for number, row in enumerate(rows):
        begins = np.cumsum([0, *(length for length, _ in row)]).tolist()
        lengths.append(begins[-1])
        starts.append(begins if begins[-1] < LENGTH else begins[:-1])
        spans = [(at + b, at + e) for at, (_, m) in zip(begins, row, strict=False) for b, e in m]
        supervised.append([bound for span in spans for bound in span])
        tokens[number, begins[-1] :] = padding
    return {
        "tokens": tokens,
        "starts": ragged(starts),
        "supervised": ragged(supervised),
        "lengths": np.array(lengths, np.int32),
    }


def documents(rows=6, length=16):
    """Tokens of documents of unlike lengths, so that rows have unlike counts of labels."""
    drawn = np.random.default_rng(1)
    starts = [np.sort(drawn.choice(length, size=n, replace=False)) for n in range(rows)]
    bounds = np.cumsum([0, *map(len, starts)])
    return {
        "tokens": drawn.integers(0, 61, (rows, length)).astype(np.uint16),
        "starts": Ragged(np.concatenate(starts).astype(np.int32), bounds.astype(np.int32)),
    }


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)
