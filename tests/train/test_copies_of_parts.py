"""Hybrid sharding: copies of a model that is split, at numbers of ranks that change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_runs import engine_of, losses, outcome, proof, run_ranks, train
from torch.distributed.tensor import DTensor

from manta.elastic.checks.preflight import Checked
from manta.parallel.mesh import ShardMesh, mesh_of
from manta.parallel.sharding import in_first_copy

Build = Callable[..., Checked]
STEP = 16 * 7  # tokens
COPIES = {"parallel.shard": 2, "scaling": {"min": 2, "max": 4}}


@given(st.integers(2, 64), st.integers(1, 256))
def test_every_rank_is_used_and_holds_no_more_than_asked(shard: int, ranks: int) -> None:
    mesh = mesh_of(shard, ranks)
    assert mesh.replicas * mesh.shards == ranks
    assert mesh.shards >= min(shard, ranks)
    smaller = range(min(shard, ranks), mesh.shards)
    assert all(ranks % fewer for fewer in smaller), "as many copies as that allows"
    assert sum(map(mesh.holds_first_copy, range(ranks))) == mesh.shards
    assert mesh_of(True, ranks) == ShardMesh(1, ranks)


def test_the_same_run_at_any_world_size_and_through_kills(checked: Build) -> None:
    """Two copies of two parts, then one of three, then one of two; with snapshots, then without."""
    changes = {**COPIES, "checkpoint": {"every": 4 * STEP, "snapshot_every": 1}}
    alone = checked({"run.name": "alone"})
    run = checked({**changes, "run.name": "mixed"})
    rows = train(run, 4, die_after=6, snapshots=True)
    rows = train(run, 3, die_after=9, attempt=2, snapshots=True)
    rows = train(run, 4, attempt=3)
    went_on = [(row["source"], row["resumed"]) for row in rows if "resumed" in row]
    assert [source for source, _ in went_on] == ["start", "snapshot", "checkpoint"]
    assert went_on[1][1] in (5, 6), "the kill may hit the newest one"
    assert went_on[2][1] == 8
    curve = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert curve == pytest.approx(losses(train(alone)), rel=1e-5)
    assert proof(run) == proof(alone)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_weights_are_the_same_to_the_bit(checked: Build, precision: str) -> None:
    changes = {
        **COPIES,
        "train.reproducible": "any_world_size",
        "train.micro_batch": 2,
        "train.precision": precision,
        "model.sizes.attention_dropout": 0.1,
        "model.sizes.hidden_size": 96,
        "model.sizes.intermediate_size": 96,
        "checkpoint.every": 4 * STEP,
    }
    all_in_one = {"parallel.shard": True, "scaling": {"min": 2, "max": 2}}
    one = checked({**changes, **all_in_one, "run.name": "one"})
    run = checked({**changes, "run.name": "copies"})
    train(run, 4, die_after=6)
    found = outcome(run, train(run, 4, attempt=2))
    assert found == outcome(one, train(one, 2))


def test_a_frozen_base_is_told_by_each_part_once(checked: Build) -> None:
    freezes = {"model.freeze": ["*layers.0.*"]}
    run_ranks(4, _assert_the_same_base, checked({**COPIES, **freezes}), checked(freezes))


def _assert_the_same_base(copies: Checked, whole: Checked) -> None:
    engine = engine_of(copies)
    weight = next(each for each in engine.trained.lm.parameters() if len(each) % 2 == 0)
    assert isinstance(weight, DTensor)
    assert in_first_copy(weight) == (engine.ranks.rank < 2)
    assert 2 * weight.to_local().numel() == weight.numel()
    assert engine.trained.base == engine_of(whole).trained.base is not None


def test_fewer_workers_than_a_copy_needs_are_refused(checked: Build) -> None:
    asked: dict[str, Any] = {"parallel.shard": 4, "scaling": {"min": 2, "max": 8}}
    with pytest.raises(ValueError, match=r"parallel\.shard = 4: .*scaling\.min to 4"):
        checked(asked)
