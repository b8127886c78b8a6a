"""The average of the weights: its closed form, its own evaluation, and what is exported of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from plain_runs import engine_of, loop_of, streams_of
from torch import Tensor

from manta.config.errors import RunError
from manta.config.optimizer import AverageSection
from manta.elastic.checks.preflight import Checked
from manta.optimizer.averaging import AVERAGE
from manta.state.checkpoint_files import newest
from manta.state.loading import load_model
from manta.train.evaluate import evaluate
from manta.train.export import export

STEP = 16 * 7  # tokens
HALF_LIFE = 3 * STEP
AVERAGED = {
    "optimizer.average": {"half_life": HALF_LIFE},
    "schedule.lr": 1e-2,
    "eval": {"every": 4 * STEP, "tokens": 160},
}
BF16 = {"train.precision": "bf16", "train.param_dtype": "bf16"}


def copies(tensors: Any) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def test_weights_count_by_the_tokens_that_have_passed_since(checked) -> None:
    """Whatever the batch size: each step's weights count for the tokens until the next ones."""
    batch = [{"from": 3, "tokens": 4 * STEP}, {"from": 9}]
    run = checked({**AVERAGED, "schedule.batch": batch})
    engine = engine_of(run)
    passed: list[tuple[int, int, list[Tensor]]] = []
    for batch in streams_of(run)(0):
        engine.step(batch)
        now = copies(engine.trained.lm.parameters())
        passed.append((batch.step.tokens, batch.step.tokens_after, now))
    end = passed[-1][1]
    counts = [
        2.0 ** ((after - end) / HALF_LIFE) - 2.0 ** ((before - end) / HALF_LIFE)
        for before, after, _ in passed
    ]
    assert len({after - before for before, after, _ in passed}) == 2
    for index, weight in enumerate(engine.trained.lm.parameters()):
        summed = sum(n * now[index].double() for n, (*_, now) in zip(counts, passed, strict=True))
        found = engine.trained.optimizer.state[weight][AVERAGE]
        assert torch.allclose(found, (summed / sum(counts)).float(), rtol=1e-4, atol=1e-6)
        assert not torch.equal(found, weight)


@pytest.mark.parametrize("changes", [{}, BF16], ids=["float32", "bf16"])
def test_an_evaluation_of_the_average_leaves_all_as_it_was(checked, changes) -> None:
    run = checked({**AVERAGED, **changes})
    engine = engine_of(run)
    assert not engine.trained.has_average
    batches = streams_of(run)(0)
    for _ in range(2):
        engine.step(next(batches))

    def everything() -> list[Tensor]:
        rounded = engine.trained.rounded
        held = [value for s in engine.trained.optimizer.state.values() for value in s.values()]
        more = rounded.lm.parameters() if rounded else ()
        return copies([*engine.trained.lm.parameters(), *held, *more])

    before, loss = everything(), evaluate(engine, run.validation).loss
    with engine.trained.averaged():
        other = evaluate(engine, run.validation).loss
    assert other != loss
    assert all(map(torch.equal, everything(), before))
    assert evaluate(engine, run.validation).loss == loss


def trained(run: Checked) -> list[dict[str, Any]]:
    """Train in this process; returns the rows that were told."""
    run.run_dir.mkdir(parents=True)
    rows = run.run_dir / "rows.jsonl"
    loop_of(run, engine_of(run), rows).run(streams_of(run))
    return [json.loads(line) for line in rows.read_text().splitlines()]


@pytest.mark.parametrize("tied", [False, True])
def test_the_average_of_a_checkpoint_has_the_loss_that_was_told(checked, tied) -> None:
    run = checked({**AVERAGED, "model.sizes.tie_word_embeddings": tied})
    told = {row["step"]: row for row in trained(run) if "val_loss" in row}
    assert "val_loss_average" not in told[0]  # nothing was trained yet
    engine = engine_of(run)
    checkpoint = newest(run.run_dir / "checkpoints")
    for average, key in ((True, "val_loss_average"), (False, "val_loss")):
        load_model(checkpoint, engine.trained.lm, average=average)
        found = evaluate(engine, run.validation).loss
        assert found == pytest.approx(told[12][key], rel=1e-6)
    assert told[12]["val_loss_average"] != told[12]["val_loss"]


def test_what_has_no_average_is_refused(checked, tmp_path) -> None:
    run = checked({"wandb.mode": "disabled"})
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "config.yaml").write_text(json.dumps(run.config.model_dump(mode="json")))
    with pytest.raises(RunError, match="it has no average"):
        export(run.run_dir, tmp_path / "out", average=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="more than 0 tokens"):
        AverageSection(half_life="0%")
