"""Validation, early stopping, bad values, rates."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
from plain_runs import engine_of, loop_of, run_ranks, streams_of

from manta.config.errors import DivergedError, TrainingError
from manta.state.checkpoint_files import read_state, whole
from manta.stream.plan import order_of, reader_of
from manta.train.evaluate import evaluate
from manta.train.throughput import Meter

STEP = 16 * 7


def _evaluate_rank(run, out) -> None:
    engine = engine_of(run)
    found = evaluate(engine, run.validation)
    losses = [found.loss, *found.by_source.values()]
    (out / f"{engine.ranks.world_size}-{engine.ranks.rank}").write_text(
        " ".join(map(float.hex, losses))
    )


@pytest.mark.parametrize("changes", [{}, {"parallel.shard": True}], ids=["replicated", "sharded"])
def test_validation_is_bitwise_the_same_at_any_world_size(checked, tmp_path, changes) -> None:
    run = checked({"eval": {"every": STEP, "tokens": 16 * 13}, **changes})
    for world_size in (1, 2, 3):
        run_ranks(world_size, _evaluate_rank, run, tmp_path)
    losses = {path.read_text() for path in tmp_path.glob("[0-9]-[0-9]")}
    assert len(list(tmp_path.glob("[0-9]-[0-9]"))) == 6
    assert len(losses) == 1
    # An untrained model knows nothing of 61 tokens: neither over all, nor in either source.
    found = [float.fromhex(loss) for loss in losses.pop().split()]
    assert found == [pytest.approx(math.log(61), rel=0.02)] * 3


def test_validation_is_the_mean_over_a_fixed_sample_and_over_that_of_each_source(checked) -> None:
    run = checked({"eval": {"every": STEP, "tokens": 16 * 13}, "train.micro_batch": 5})
    engine, reader = engine_of(run), reader_of(run.validation.corpus)

    found = evaluate(engine, run.validation)

    sums = {
        stratum.source: np.sum(
            [
                [float(part) for part in engine.measure(reader.read(np.array([sample])))]
                for sample in run.validation.ids(stratum).tolist()
            ],
            axis=0,
        )
        for stratum in run.validation.strata
    }
    assert [stratum.drawn for stratum in run.validation.strata] == [9, 4]
    expected = {source: loss / count for source, (loss, count) in sums.items()}
    assert found.by_source == pytest.approx(expected, rel=1e-5)
    loss, count = sum(sums.values())
    assert found.loss == pytest.approx(loss / count, rel=1e-5)
    assert found.as_row().keys() == {"val_loss", "val_loss/web", "val_loss/code"}


def test_losses_of_other_samples_neither_stop_a_run_nor_hold_its_best(checked) -> None:
    """A checkpoint of a version that evaluated other samples, with an unbeatable loss."""
    every = {"every": STEP, "tokens": 160}
    early = checked({"eval": every, "checkpoint": {"at": [2 * STEP]}})
    early.run_dir.mkdir(parents=True)
    loop_of(early, engine_of(early), early.run_dir / "rows.jsonl").run(streams_of(early))
    kept = {read_state(path).step: path for path in whole(early.run_dir / "checkpoints")}
    for step, path in kept.items():
        if step > 2:
            shutil.rmtree(path)
    content = json.loads((kept[2] / "state.json").read_text())
    del content["state"]["eval_sample"], content["seal"], content["format"]
    content["state"] |= {"val_loss": 0.0, "best_val_loss": 0.0}
    (kept[2] / "state.json").write_text(json.dumps(content))

    run = checked({"eval": {**every, "patience": 1}, "checkpoint": {"at": [2 * STEP]}})
    loop = loop_of(run, engine_of(run), run.run_dir / "rows.jsonl")

    assert loop.run(streams_of(run)) == "finished"
    best = {s.step: s.best_val_loss for s in map(read_state, whole(run.run_dir / "checkpoints"))}
    assert 1 < best[12] < math.log(61) * 1.1


def test_training_stops_when_evaluations_stop_improving(checked) -> None:
    run = checked(
        {
            "schedule.lr": 1e-3,
            "eval": {"every": STEP, "tokens": 160, "patience": 3, "min_delta": 100.0},
        }
    )
    run.run_dir.mkdir(parents=True)
    loop = loop_of(run, engine_of(run), run.run_dir / "rows.jsonl")
    assert loop.run(streams_of(run)) == "stopped"
    assert read_state(whole(run.run_dir / "checkpoints")[-1]).step == 3


def test_without_early_stopping_the_run_finishes(checked) -> None:
    run = checked({"eval": {"every": STEP, "tokens": 160, "min_delta": 100.0}})
    run.run_dir.mkdir(parents=True)
    loop = loop_of(run, engine_of(run), run.run_dir / "rows.jsonl")
    assert loop.run(streams_of(run)) == "finished"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_value_stops_before_the_update(checked, monkeypatch, bad) -> None:
    run = checked({"checkpoint.every": 2 * STEP})
    run.run_dir.mkdir(parents=True)
    engine = engine_of(run)
    calls = 0
    forward = engine.model.forward

    def spoiled(*args):
        nonlocal calls
        calls += 1
        loss = forward(*args)
        # Two micro-batches a step: the second one of step 5. An infinite constant has no
        # gradient, so only the check of the loss itself can see it.
        return loss + bad if calls == 10 else loss

    monkeypatch.setattr(engine.model, "forward", spoiled)
    weights = {}
    step = engine.step

    def watched(batch, **asked):
        weights[batch.step.number] = [p.detach().clone() for p in engine.trained.lm.parameters()]
        return step(batch, **asked)

    monkeypatch.setattr(engine, "step", watched)
    with pytest.raises(TrainingError, match=r"step 5: .*not finite") as caught:
        loop_of(run, engine, run.run_dir / "rows.jsonl").run(streams_of(run))
    ids = order_of(run.corpus).ids(28, 35)
    assert f"sample ids {', '.join(map(str, ids))}." in str(caught.value)
    # The weights are those before step 5, and the checkpoint of step 4 is whole.
    assert all(map(torch.equal, weights[5], engine.trained.lm.parameters()))
    assert not all(map(torch.equal, weights[4], engine.trained.lm.parameters()))
    assert read_state(whole(run.run_dir / "checkpoints")[-1]).step == 4
    rows = [json.loads(line) for line in (run.run_dir / "rows.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows if "loss" in row) == 4


def test_weights_that_are_not_finite_are_never_saved(checked) -> None:
    """Loss and gradient of the first step are finite, but not the update by a rate of 1e39."""
    groups = [{"names": ["*norm*"], "lr": 1e42}]
    run = checked({"checkpoint.every": STEP, "optimizer.groups": groups})
    run.run_dir.mkdir(parents=True)
    with pytest.raises(DivergedError, match=r"step 1: a weight is not finite .* nothing was saved"):
        loop_of(run, engine_of(run), run.run_dir / "rows.jsonl").run(streams_of(run))
    assert not list(whole(run.run_dir / "checkpoints"))


def test_periods_are_in_tokens_at_any_batch_size(checked) -> None:
    run = checked(
        {
            "log.every": 300,
            "schedule.horizon": 2000,
            "schedule.batch": {"name": "ramp", "from": 3, "to": 11, "over": 1500},
        }
    )
    run.run_dir.mkdir(parents=True)
    loop_of(run, engine_of(run), run.run_dir / "rows.jsonl").run(streams_of(run))
    rows = [json.loads(line) for line in (run.run_dir / "rows.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "loss" in row]
    ends = [run.schedule.step(k).tokens_after for k in range(run.schedule.steps)]
    due = {next(end for end in ends if end >= m) for m in range(300, ends[-1], 300)}
    assert {row["tokens"] for row in logged} == due | {ends[0], ends[-1]}
    for row in logged:
        step = run.schedule.step(row["step"] - 1)
        assert (row["lr"], row["batch_size"]) == (step.lr, step.batch_size)
        assert row["epoch"] == step.first_position // order_of(run.corpus).num_samples


def test_the_rate_is_over_elapsed_training_time(monkeypatch) -> None:
    clock = iter([100.0, 104.0, 110.0, 116.0, 200.0, 203.0, 204.0]).__next__
    monkeypatch.setattr("manta.train.throughput.time.perf_counter", clock)
    meter = Meter()  # 100
    meter.add(50)
    with meter.paused():  # 104: four seconds of training
        pass  # 110
    meter.add(50)
    assert meter.read() == 100 / 10  # 116: six more; 200: the next stretch begins
    meter.add(30)
    assert meter.read() == 30 / 3
