"""Weights in bf16 with float32 masters: a plain loop's curve, exact restarts, and their memory."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_runs import Fault, engine_of, losses, run_ranks, streams_of, train
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from manta.elastic.checks.preflight import Checked
from manta.objective.causal import Causal, TokenLoss
from manta.state.checkpoint_files import newest
from manta.state.loading import load, load_model
from manta.stream.plan import local_stream
from manta.train.engine import Engine
from manta.train.microbatch import micro_slices, micro_steps

STEP = 16 * 7
AUTOCAST = {"train.precision": "bf16"}
BF16 = {**AUTOCAST, "train.param_dtype": "bf16", "train.micro_batch": 2}
SHARDED = {"parallel.shard": True}
ROOT = Path(__file__).resolve().parents[2]
# How far a loss may be, relative: from the curve in float32; and where other sums are rounded, as
# rows are cut into other forward passes, or exchanged in bf16.
OF_FLOAT32 = OTHER_SUMS = 1e-3
# Two ranks have the same forward passes here as one: float32 sums of the same bf16 gradients.
SAME = 1e-6


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As ranks have: runs in this process are compared with theirs to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------ the golden curve


def golden(engine: Engine, run: Checked) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step by a plain loop, from the weights of `engine`."""
    masters = [p.detach().clone() for p in engine.trained.lm.parameters()]
    model = copy.deepcopy(engine.trained.lm)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    section = run.config.optimizer
    decays = [p.ndim == 2 and name.find("embed") < 0 for name, p in model.named_parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [m], "weight_decay": section.weight_decay if decay else 0.0}
            for m, decay in zip(masters, decays, strict=True)
        ],
        betas=section.betas,
        eps=section.eps,
        fused=True,
    )
    loss_of, found = TokenLoss(model), []
    for batch in local_stream(run.corpus, run.schedule, cursor=0, rank=0, world_size=1):
        inputs = Causal().inputs(batch.samples, engine.device)
        valid, total = (inputs.labels >= 0).sum(), torch.zeros(1)
        sums = [torch.zeros_like(m) for m in masters]
        for rows in micro_slices(len(batch.ids), micro_steps(batch.step.batch_size, 1, 2)):
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(*inputs.rows(rows))
            (loss / valid).backward()
            total += loss.detach()
            for held, parameter in zip(sums, model.parameters(), strict=True):
                held += parameter.grad
                parameter.grad = None
        for master, gradient in zip(masters, sums, strict=True):
            master.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = batch.step.lr
        found.append((float(total / valid), float(torch.nn.utils.get_total_norm(sums))))
        optimizer.step()
        with torch.no_grad():
            for parameter, master in zip(model.parameters(), masters, strict=True):
                parameter.copy_(master)
    return found


def test_the_curve_is_that_of_a_plain_loop(checked) -> None:
    """To the bit: master weights, float32 sums of bf16 gradients, rounding after each update."""
    run = checked({**BF16, "train.clip_norm": None})
    expected, engine, found = golden(engine_of(run), run), engine_of(run), []
    for batch in local_stream(run.corpus, run.schedule, cursor=0, rank=0, world_size=1):
        result = engine.step(batch)
        found.append((float(result.loss), float(result.grad_norm)))
    assert len(found) == 12
    assert found == expected


# ----------------------------------------------------------- ranks, restarts, other layouts


@pytest.fixture(scope="module")
def alone(checked_module) -> dict[int, float]:
    return losses(train(checked_module({**BF16, "run.name": "alone"})))


def test_the_curve_is_close_to_that_of_float32(checked, alone) -> None:
    exact = losses(train(checked({"run.name": "float32"})))
    assert alone == pytest.approx(exact, rel=OF_FLOAT32)
    assert alone != losses(train(checked({**BF16, "train.param_dtype": "fp32"}))), "not in bf16"


@pytest.fixture(scope="module")
def replicated(checked_module) -> dict[int, float]:
    return losses(train(checked_module({**BF16, "run.name": "replicated"}), 2))


@pytest.fixture(scope="module")
def sharded(checked_module) -> dict[int, float]:
    return losses(train(checked_module({**BF16, **SHARDED, "run.name": "sharded"}), 2))


@pytest.mark.parametrize("layout", ["replicated", "sharded"])
def test_two_ranks_train_the_same_as_one(request, alone, layout) -> None:
    assert request.getfixturevalue(layout) == pytest.approx(alone, rel=SAME)


@pytest.mark.parametrize(
    ("layout", "source"),
    [("replicated", "checkpoint"), ("replicated", "snapshot"), ("sharded", "checkpoint")],
)
def test_a_killed_run_goes_on_to_the_bit(checked, request, layout, source) -> None:
    snapshots = source == "snapshot"
    kept = {"snapshot_every": 3} if snapshots else {"every": 3 * STEP}
    shards = {"parallel.shard": layout == "sharded"}
    run = checked({**BF16, **shards, "checkpoint": kept})
    train(run, 2, die_after=8, snapshots=snapshots)
    rows = train(run, 2, attempt=2, snapshots=snapshots)
    assert [row["source"] for row in rows if "resumed" in row] == ["start", source]
    assert losses(rows) == request.getfixturevalue(layout)


@pytest.mark.parametrize("changes", [{}, SHARDED], ids=["replicated", "sharded"])
def test_a_run_goes_on_with_another_number_of_ranks(checked, alone, changes) -> None:
    run = checked({**BF16, **changes, "checkpoint": {"every": 3 * STEP}})
    train(run, 1, die_after=5)
    train(run, 2, die_after=9, attempt=2)
    rows = train(run, 1, attempt=3)
    curve = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert curve == pytest.approx(alone, rel=SAME)


def test_three_ranks_round_other_sums(checked, alone) -> None:
    assert losses(train(checked(BF16), 3)) == pytest.approx(alone, rel=OTHER_SUMS)


def test_gradients_can_be_exchanged_in_bf16_too(checked, alone) -> None:
    run = checked({**BF16, "parallel.reduce_dtype": "bf16"})
    curve = losses(train(run, 2))
    assert curve == pytest.approx(alone, rel=OTHER_SUMS)
    assert curve != pytest.approx(alone, rel=SAME)


# ------------------------------------------------------------------ what is kept, and dropped


def test_checkpoints_and_exports_hold_the_masters(checked) -> None:
    run = checked(BF16)
    train(run)
    checkpoint, engine = newest(run.run_dir / "checkpoints"), engine_of(run, empty=True)
    load(checkpoint, engine.trained)
    masters = dict(engine.trained.lm.named_parameters())
    assert {one.dtype for one in masters.values()} == {torch.float32}
    assert any(not torch.equal(one, one.bfloat16().float()) for one in masters.values())
    held = dict(engine.trained.rounded.lm.named_parameters())
    assert all(torch.equal(held[name], one.bfloat16()) for name, one in masters.items())
    assert (
        dict(engine.trained.rounded.lm.named_buffers()).keys()
        == dict(engine.trained.lm.named_buffers()).keys()
    )
    assert all(map(torch.equal, engine.trained.rounded.lm.buffers(), engine.trained.lm.buffers()))
    # What float32 weights would have saved, by name and type: another setting can load it.
    plain = engine_of(checked({"run.name": "plain"}), empty=True)
    load(checkpoint, plain.trained)
    assert all(map(torch.equal, plain.trained.lm.parameters(), masters.values()))
    exported = AutoModelForCausalLM.from_config(engine.trained.lm.config, dtype=torch.float32)
    load_model(checkpoint, exported)  # as `manta export` does
    assert all(map(torch.equal, exported.parameters(), masters.values()))


def test_a_bad_step_changes_neither_masters_nor_weights(checked) -> None:
    run = checked({**BF16, "guards.nonfinite": "skip"})
    engine = engine_of(run)
    Fault((2,), math.nan)(engine)
    seen = []
    for batch in local_stream(run.corpus, run.schedule, cursor=0, rank=0, world_size=1):
        engine.step(batch)
        weights = [*engine.trained.lm.parameters(), *engine.trained.rounded.lm.parameters()]
        seen.append([p.detach().clone() for p in weights])
        assert all(p.grad is None for p in weights)
    assert all(map(torch.equal, seen[0], seen[1]))
    assert not any(map(torch.equal, seen[1], seen[2]))


def test_a_small_update_is_not_lost(checked) -> None:
    """Of an update of less than 1/256 of a weight, bf16 alone would keep nothing."""
    run = checked({**BF16, "schedule.lr": 1e-6})
    engine = engine_of(run)
    before = [p.detach().clone() for p in engine.trained.lm.parameters()]
    for batch in local_stream(run.corpus, run.schedule, cursor=0, rank=0, world_size=1):
        engine.step(batch)
    matrices = [
        (a, b) for a, b in zip(before, engine.trained.lm.parameters(), strict=True) if a.ndim == 2
    ]
    assert all(float((a != b).float().mean()) > 0.5 for a, b in matrices)


def test_without_autocast_it_is_refused(checked) -> None:
    with pytest.raises(
        ValueError, match=r"train\.param_dtype = 'bf16' can't be used with train\.precision = 'no'"
    ):
        checked({"train.param_dtype": "bf16"})


# ------------------------------------------------------------------ what a parameter costs


def _bytes_of(tensors: list[Any]) -> int:
    """Of the storages behind tensors, each once."""
    local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors if t is not None]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in local}
    return sum(storages.values())


def _measure(runs: dict[str, Checked], folder: Path) -> None:
    """Bytes that a rank holds before an update, for each parameter of the model."""
    found = {}
    for name, run in runs.items():
        engine, sizes = engine_of(run), []
        rounded = engine.trained.rounded
        weights = [*engine.trained.lm.parameters(), *(rounded.lm.parameters() if rounded else ())]

        def measured(act: Any, engine=engine, weights=weights, sizes=sizes) -> Any:
            def call(*args: Any) -> Any:
                state = [v for s in engine.trained.optimizer.state.values() for v in s.values()]
                # What DDP exchanges from stays; gradients lie in it until they are cleared.
                sizes.append(_bytes_of([*weights, *(p.grad for p in weights), *state]))
                return act(*args)

            return call

        engine._update = measured(engine._update)
        if rounded:
            rounded.clear = measured(rounded.clear)
        for batch in streams_of(run, engine.ranks.rank, engine.ranks.world_size)(0):
            engine.step(batch)
        found[name] = max(sizes) / sum(p.numel() for p in engine.trained.lm.parameters())
    (folder / f"{engine.ranks.rank}.json").write_text(json.dumps(found))


def test_bytes_a_parameter_of_a_device(checked, tmp_path) -> None:
    """As docs/operations.md has them."""
    kinds = {
        "autocast": AUTOCAST,
        "bf16": BF16,
        "autocast, sharded": AUTOCAST | SHARDED,
        "bf16, sharded": BF16 | SHARDED,
    }
    steps = {"schedule.horizon": 3 * STEP}
    runs = {name: checked({**changes, **steps}) for name, changes in kinds.items()}
    run_ranks(2, _measure, runs, tmp_path)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        expected = {"autocast": 16, "bf16": 20, "autocast, sharded": 8, "bf16, sharded": 8}
        assert found == pytest.approx(expected, rel=0.02)
    run_ranks(1, _measure, runs, tmp_path)
    found = json.loads((tmp_path / "0.json").read_text())
    expected = {"autocast": 16, "bf16": 18, "autocast, sharded": 16, "bf16, sharded": 18}
    assert found == pytest.approx(expected, rel=0.02)
    page = (ROOT / "docs/operations.md").read_text()
    for row in (
        "| fp32 | 16 | 16 | 16 / W |",
        "| bf16 | 18 | 20 | 16 / W |",
    ):
        assert row in page
