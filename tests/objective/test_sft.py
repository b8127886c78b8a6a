"""Supervised fine-tuning: sums over answers alone, whatever a conversation is packed with."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tiny_batches import LENGTH, ROWS, chats, llama

from manta.model import attention
from manta.model.cross_entropy import IGNORE
from manta.model.loss_head import fuse
from manta.objective.protocol import Models
from manta.objective.sft import SupervisedFineTuning
from manta.objective.weighing import Weighing
from manta.sample.chat import Chat, conversations_batch
from manta.sample.columns import Columns, sliced
from manta.sample.windows import windowed
from manta.testing import check_objective

CPU = torch.device("cpu")
PER = ("token", "sequence")


def model() -> Any:
    lm = llama()
    attention.choose(lm, document_mask=True, seq_len=LENGTH, device=CPU)
    return lm


def trained(lm: Any, batch: Columns, per: Any = "token") -> tuple[float, torch.Tensor]:
    """The loss of a batch and its gradient, flat."""
    objective = SupervisedFineTuning(document_mask=True, per=per)
    inputs = objective.inputs(batch, CPU)
    lm.zero_grad()
    sums = objective.module(Models(lm))(*inputs.rows(slice(0, len(inputs))))
    weights = objective.weights(inputs)
    Weighing(objective.terms, CPU).for_backward(sums, weights, 1).backward()
    return float((sums / weights).detach()), torch.cat([p.grad.flatten() for p in lm.parameters()])


def one_by_one(lm: Any, rows: Any = ROWS) -> list[list[torch.Tensor]]:
    """The cross-entropy of each supervised token of each conversation, in Transformers alone."""
    batch, found = chats(rows), []
    for tokens, row in zip(batch["tokens"].astype(np.int64), rows, strict=True):
        at = 0
        for length, spans in row:
            ids = torch.from_numpy(tokens[at : at + length])[None]
            logits = lm(input_ids=ids, use_cache=False).logits[0].float()
            losses = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
            found.append([losses[place - 1] for b, e in spans for place in range(b, e)])
            at += length
    return found


def in_windows() -> Any:
    """As ROWS: the same conversations end to end, cut wherever a row is full."""
    masks = [(n, spans) for row in ROWS for n, spans in row]
    tokens = [np.zeros(n, np.uint16) for n, _ in masks]
    spans, starts, names = [spans for _, spans in masks], [[0]] * len(masks), ["c"] * len(masks)
    table = conversations_batch(tokens, spans, starts, names, 0, ["s"], "uint16")
    found = []
    for row in windowed(table, Chat("uint16", LENGTH, 0).schema, LENGTH).to_pylist():
        bounds, spans_of_row = row["supervised"], []
        for begin, end in pairwise([*row["starts"], len(row["tokens"])]):
            mine = zip(bounds[::2], bounds[1::2], strict=True)
            spans_of_row.append(
                (end - begin, [(b - begin, e - begin) for b, e in mine if begin <= b < end])
            )
        found.append(spans_of_row)
    return found


@pytest.mark.parametrize("mask", [True, False])
def test_windows_are_exact_over_every_split(mask: bool) -> None:
    rows = in_windows()
    assert [sum(n for n, _ in row) for row in rows[:-1]] == [LENGTH] * (len(rows) - 1)
    assert rows != ROWS
    lm = model() if mask else llama()
    check_objective(SupervisedFineTuning(document_mask=mask), lm, chats(rows))


def test_windows_are_the_loss_of_each_part_alone() -> None:
    lm, rows = model(), in_windows()
    alone = torch.stack([loss for one in one_by_one(lm, rows) for loss in one])
    assert len(alone) == sum(e - b for row in ROWS for _, spans in row for b, e in spans)
    assert trained(lm, chats(rows))[0] == pytest.approx(float(alone.mean().detach()), rel=1e-6)


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("mask", [True, False])
def test_it_is_exact_over_every_split(per: Any, mask: bool) -> None:
    lm = model() if mask else llama()
    check_objective(SupervisedFineTuning(document_mask=mask, per=per), lm, chats())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("per", PER)
def test_it_is_that_of_each_conversation_alone(per: Any, fused: bool) -> None:
    plain, lm = model(), model()
    if fused:
        fuse(lm)
    alone = one_by_one(plain)
    if per == "token":
        expected = torch.stack([loss for one in alone for loss in one]).mean()
    else:
        expected = torch.stack([torch.stack(one).mean() for one in alone]).mean()
    expected.backward()
    gradient = torch.cat([p.grad.flatten() for p in plain.parameters()])
    loss, found = trained(lm, chats(), per)
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    assert (found - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.parametrize("per", PER)
def test_a_changed_conversation_moves_none_of_those_beside_it(per: Any) -> None:
    """Of a row with two: the first one's loss and gradient, whatever the second is."""
    lm, rows = model(), [[(6, [(2, 4)]), (10, [])]]
    one, other = chats(rows), chats(rows)
    other["tokens"][:, 6:] = (other["tokens"][:, 6:] + 7) % 61
    loss, gradient = trained(lm, one, per)
    moved, moved_gradient = trained(lm, other, per)
    assert moved == loss
    # Embeddings of the second one's tokens get no gradient by way of the first.
    torch.testing.assert_close(moved_gradient, gradient, rtol=0, atol=0)


@pytest.mark.parametrize("per", PER)
def test_padding_is_told_by_position_not_by_its_token(per: Any) -> None:
    """Also where it is the token that ends an answer."""
    lm, batch = model(), chats()
    end = int(batch["tokens"][1, 15])  # the last supervised token of a row
    assert trained(lm, chats(padding=end), per)[0] == trained(lm, chats(padding=60), per)[0]
    labels = SupervisedFineTuning(document_mask=True).inputs(chats(padding=end), CPU).labels
    counted = (labels != IGNORE).sum(1).tolist()
    assert counted == [sum(e - b for _, spans in row for b, e in spans) for row in ROWS]


def test_a_rank_without_rows_weighs_nothing() -> None:
    for per in PER:
        objective = SupervisedFineTuning(document_mask=True, per=per)  # type: ignore[arg-type]
        inputs = objective.inputs(sliced(chats(), slice(0, 0)), CPU)
        assert objective.weights(inputs).tolist() == [0]
        sums = objective.module(Models(model()))(*inputs.rows(slice(0, 0), 2))
        assert sums.tolist() == [0.0]


def test_a_model_that_knows_a_conversation_by_heart_stops_at_its_end() -> None:
    """Also where the token that ends an answer fills rows up as well."""
    lm, end = model(), 60
    batch = chats([[(10, [(4, 7), (8, 10)])]], padding=end)
    batch["tokens"][0, [6, 9]] = end
    optimizer = torch.optim.Adam(lm.parameters(), 1e-2)
    for _ in range(60):
        trained(lm, batch)
        optimizer.step()
    ids = batch["tokens"][0, :10].astype(np.int64).tolist()
    for prompt, answer in ((ids[:4], ids[4:7]), (ids[:8], ids[8:10])):
        given = torch.tensor([prompt])
        said = lm.generate(
            given, max_new_tokens=8, do_sample=False, eos_token_id=end, pad_token_id=0
        )
        assert said[0, len(prompt) :].tolist() == answer
