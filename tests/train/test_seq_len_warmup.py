"""Samples that are seen in pieces at first: the same run at any world size, and what a row sees."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_runs import engine_of, losses, outcome, proof, train

from manta.elastic.checks.preflight import Checked
from manta.sample.columns import Ragged
from manta.sample.tokens import in_pieces, position_ids
from manta.stream.plan import first_steps

Build = Callable[..., Checked]
STEP = 16 * 7  # tokens
WARMUP = {
    "train.seq_len_warmup": [{"until": "25%", "length": 4}, {"until": "50%", "length": 8}],
    "checkpoint.every": 4 * STEP,
}


@given(st.data())
def test_pieces_are_the_same_tokens_and_documents(data: st.DataObject) -> None:
    samples, pieces, length = (data.draw(st.integers(1, most)) for most in (4, 4, 5))
    whole = pieces * length
    tokens = np.arange(samples * whole, dtype=np.uint16).reshape(samples, whole)
    places = [sorted(data.draw(st.sets(st.integers(0, whole - 1)))) for _ in range(samples)]
    bounds = np.cumsum([0, *map(len, places)])
    starts = Ragged(np.array([*chain(*places)], dtype=np.int32), bounds)
    found = in_pieces({"tokens": tokens, "starts": starts}, pieces)
    assert np.array_equal(found["tokens"], tokens.reshape(-1, length))
    expected = position_ids({"tokens": tokens, "starts": starts}).reshape(-1, length)
    # A position also restarts where a piece begins.
    restarted = np.minimum(expected, np.arange(length))
    assert np.array_equal(position_ids(found), restarted)


def test_the_same_run_at_any_world_size_and_through_kills(checked: Build) -> None:
    alone, mixed = (checked({**WARMUP, "run.name": name}) for name in ("alone", "mixed"))
    expected = train(alone)
    assert [row["seq_len"] for row in expected if "loss" in row] == [4] * 3 + [8] * 3 + [16] * 6
    train(mixed, 3, die_after=5)
    found = train(mixed, 2, attempt=2)
    curve = {row["step"]: row["loss"] for row in found if "loss" in row}
    assert curve == pytest.approx(losses(expected), rel=1e-5)
    assert proof(mixed) == proof(alone)
    constant = losses(train(checked({"run.name": "constant"})))
    assert losses(expected)[1] != pytest.approx(constant[1], rel=1e-5)


def test_weights_are_the_same_to_the_bit(checked: Build) -> None:
    exact = {**WARMUP, "train.reproducible": "any_world_size", "train.micro_batch": 3}
    one, three = (checked({**exact, "run.name": name}) for name in ("one", "three"))
    assert outcome(three, train(three, 3)) == outcome(one, train(one))


def test_a_piece_sees_no_other(checked: Build) -> None:
    engine, run = engine_of(checked(WARMUP)), checked(WARMUP)
    batch = next(first_steps(run.corpus, run.schedule))
    [one, *_] = engine._sums.passes(batch)
    assert one.inputs.tokens.shape == (7 * 4, 4)
    before = engine._passes.forward(one)
    with torch.no_grad():
        rows = slice(one.rows.start, one.rows.start + 1)
        alone = engine.model(*one.inputs.rows(rows))
        one.inputs.tokens[1:] = 0
        assert torch.equal(engine.model(*one.inputs.rows(rows)), alone)
    assert before.isfinite()


def test_each_length_is_compiled_once(checked: Build) -> None:
    compiled = checked({**WARMUP, "train.compile": True, "run.name": "compiled"})
    rows = train(compiled, kernels=False)
    plain = train(checked({**WARMUP, "run.name": "plain"}))
    assert losses(rows) == pytest.approx(losses(plain), rel=1e-5)


def test_only_text_is_cut(checked: Build) -> None:
    with pytest.raises(ValueError, match=r"train\.seq_len_warmup with objective\.type = 'chat'"):
        checked({**WARMUP, "objective.type": "chat"})
