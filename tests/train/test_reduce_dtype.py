"""Gradients exchanged in bf16: half the bytes, a curve close to float32, resumed to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from plain_runs import engine_of, losses, run_ranks, train

from manta.elastic.checks.preflight import Checked
from manta.stream.plan import local_stream

STEP = 16 * 7
BF16 = {"parallel.reduce_dtype": "bf16"}
SHARDED = {"parallel.shard": True}
# How far a loss may be from that of gradients summed in float32, relative. Rounding to bf16 moves
# an element of a gradient by up to 1/256 of itself, at random; Adam's steps differ by as much.
CLOSE = 1e-4


def _measure(runs: dict[str, Checked], folder: Path) -> None:
    """Bytes of gradients that a rank gives to exchanges in one step of each run."""
    sent: list[int] = []

    def watched(function: Any, place: int) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            tensor = kwargs.get("input", args[place] if len(args) > place else None)
            if tensor.is_floating_point() and tensor.numel() > 2:  # not the guard's two values
                sent.append(tensor.nbytes)
            return function(*args, **kwargs)

        return call

    dist.all_reduce = watched(dist.all_reduce, 0)
    dist.reduce_scatter_single = watched(dist.reduce_scatter_single, 1)
    found = {}
    for name, run in runs.items():
        engine = engine_of(run)
        batches = local_stream(
            run.corpus, run.schedule, cursor=0, rank=engine.ranks.rank, world_size=2
        )
        sent.clear()
        engine.step(next(batches))
        found[name] = sum(sent) / sum(p.numel() for p in engine.trained.lm.parameters())
    (folder / f"{engine.ranks.rank}.json").write_text(json.dumps(found))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_half_the_bytes_go_over_the_wire(checked, tmp_path, precision: str) -> None:
    """DDP exchanges float32 in C++, where nobody can watch; a sharded model in Python."""
    base = {"train.precision": precision, "train.micro_batch": 7}
    kinds = {"bf16": BF16, "sharded": SHARDED, "sharded, bf16": SHARDED | BF16}
    runs = {kind: checked(base | changes) for kind, changes in kinds.items()}
    run_ranks(2, _measure, runs, tmp_path)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        # A sharded tensor is filled up to as many rows as ranks can share.
        assert found == pytest.approx({"bf16": 2, "sharded": 4, "sharded, bf16": 2}, rel=0.02)
        assert found["sharded"] == 2 * found["sharded, bf16"]


@pytest.fixture(scope="module")
def exact(checked_module) -> dict[int, float]:
    """The curve of gradients that are summed in float32."""
    return losses(train(checked_module({"run.name": "exact"}), 2))


@pytest.mark.parametrize("changes", [{}, SHARDED], ids=["replicated", "sharded"])
def test_the_curve_is_close_and_goes_on_to_the_bit(checked, exact, changes) -> None:
    changes = {**changes, **BF16, "train.micro_batch": 2, "checkpoint.every": 3 * STEP}
    run, killed = (checked({**changes, "run.name": name}) for name in ("whole", "killed"))
    curve = losses(train(run, 2))
    assert curve == pytest.approx(exact, rel=CLOSE)
    assert curve != pytest.approx(exact, rel=1e-6), "gradients were not rounded"
    train(killed, 2, die_after=8)
    assert losses(train(killed, 2, attempt=2)) == curve
