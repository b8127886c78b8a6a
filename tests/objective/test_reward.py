"""A reward from pairs: a sum over pairs of what their two scores say, exact over every split."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from manta.model import attention, model_class
from manta.model.visibility import with_drawn_weights
from manta.objective.protocol import Models
from manta.objective.reward import Reward
from manta.sample.columns import Columns, Ragged
from manta.testing import check_objective

CPU = torch.device("cpu")
LENGTH = 20
# Lengths of the chosen and the rejected conversation of each pair of each row.
ROWS = [[(4, 5)], [(3, 3), (6, 8)], [(10, 10)], [(2, 9)], [(5, 4), (3, 2)], [(7, 6)]]


def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, num_labels=1,
    )  # fmt: skip
    config.problem_type = model_class.NUMBER
    lm = with_drawn_weights(model_class.from_config(config))
    attention.choose(lm, document_mask=True, seq_len=LENGTH, device=CPU)
    return lm


def pairs(rows: Any = ROWS, padding: int = 0) -> Columns:
    tokens = np.random.default_rng(1).integers(0, 61, (len(rows), LENGTH)).astype(np.uint16)
    starts, lengths = [], []
    for number, row in enumerate(rows):
        begins = np.cumsum([0, *(length for pair in row for length in pair)])
        lengths.append(begins[-1])
        starts.append(begins if begins[-1] < LENGTH else begins[:-1])
        tokens[number, begins[-1] :] = padding
    bounds = np.cumsum([0, *map(len, starts)])
    return {
        "tokens": tokens,
        "starts": Ragged(np.concatenate(starts).astype(np.int32), bounds),
        "lengths": np.array(lengths, np.int32),
    }


def means(lm: Any, batch: Columns) -> list[float]:
    objective = Reward(document_mask=True)
    inputs = objective.inputs(batch, CPU)
    sums = objective.module(Models(lm))(*inputs.rows(slice(0, len(inputs))))
    return (sums.detach() / objective.weights(inputs)).tolist()


def margins(lm: Any, batch: Columns, rows: Any = ROWS) -> list[float]:
    """By how much the chosen one of each pair wins, each conversation scored alone."""
    found = []
    for tokens, row in zip(batch["tokens"].astype(np.int64), rows, strict=True):
        at = 0
        for pair in row:
            scores = []
            for length in pair:
                ids = torch.from_numpy(tokens[at : at + length])[None]
                hidden = lm.base_model(input_ids=ids, use_cache=False).last_hidden_state
                scores.append(float(lm.score(hidden)[0, -1, 0].detach()))
                at += length
            found.append(scores[0] - scores[1])
    return found


def test_it_is_exact_over_every_split() -> None:
    check_objective(Reward(document_mask=True), model(), pairs())


def test_it_is_what_bradley_and_terry_say_of_each_pair_alone() -> None:
    lm, batch = model(), pairs()
    expected = margins(lm, batch)
    assert len(expected) == 8
    assert 0 < sum(margin > 0 for margin in expected) < 8
    loss = np.mean([-math.log(1 / (1 + math.exp(-margin))) for margin in expected])
    accuracy = np.mean([margin > 0 for margin in expected])
    assert means(lm, batch) == pytest.approx([loss, accuracy, np.mean(expected)], rel=1e-5)


def test_padding_changes_nothing_and_equal_scores_cost_ln_2() -> None:
    lm = model()
    assert means(lm, pairs(padding=7)) == means(lm, pairs(padding=0))
    with torch.no_grad():
        lm.score.weight.zero_()
    assert means(lm, pairs()) == pytest.approx([math.log(2), 0, 0])
