"""A compiled run: one graph for training, one for evaluations, and the results of a plain run.

Torch traces the model and differentiates the graph as ever; only the making of kernels is left
out, which takes most of the time and has no part in what is asked here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from plain_runs import engine_of
from torch._dynamo.utils import counters

from manta.config.errors import TrainingError
from manta.elastic.checks.preflight import Checked
from manta.stream.plan import local_stream, reader_of
from manta.train.engine import Engine
from manta.train.evaluate import evaluate

# Over forward passes of at most 4 rows these batches are slices of 2, 3 and 4; all get 3 rows.
BATCHES = [4, 6, 7, 9]
RAMP = {
    "schedule.batch": [{"from": batch, "tokens": 16 * batch * 2} for batch in BATCHES],
    "schedule.horizon": 16 * sum(BATCHES) * 2,
    "eval": {"every": 16 * 7, "tokens": 16 * 13},
}


@pytest.fixture(autouse=True)
def _without_kernels() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    torch.compiler.set_default_backend("aot_eager")
    yield
    torch.compiler.set_default_backend(None)
    torch.compiler.reset()


def trained(run: Checked) -> tuple[list[float], list[float], Engine]:
    """Losses of all steps, of an evaluation before and one after them, and the engine."""
    engine = engine_of(run)
    before = evaluate(engine, run.validation).loss
    batches = local_stream(run.corpus, run.schedule, cursor=0, rank=0, world_size=1)
    results = [engine.step(batch) for batch in batches]
    means = [float(result.loss) for result in results]
    return means, [before, evaluate(engine, run.validation).loss], engine


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({}, 1e-5), ({"data.document_mask": True}, 1e-5), ({"train.precision": "bf16"}, 1e-2)],
    ids=["plain", "document mask", "bf16"],
)
def test_any_batch_size_and_evaluation_has_the_same_two_graphs(checked, options, tolerance) -> None:
    run = checked(RAMP | options)
    steps, evaluations, _ = trained(run)
    compiled = checked(RAMP | options | {"train.compile": True})

    graphs_before = counters["stats"]["unique_graphs"]
    compiled_steps, compiled_evaluations, engine = trained(compiled)

    assert graphs_before == 0
    assert counters["stats"]["unique_graphs"] == 2
    assert len(compiled_steps) == 2 * len(BATCHES)
    assert compiled_steps == pytest.approx(steps, rel=tolerance)
    assert compiled_evaluations == pytest.approx(evaluations, rel=tolerance)
    assert {engine.largest_pass(batch) for batch in BATCHES} == {3}


def test_blank_rows_add_nothing(checked) -> None:
    """The gradient of a step whose passes are filled up is that of one whose passes are not."""
    run = checked(RAMP | {"data.document_mask": True})
    plain, filled = engine_of(run), engine_of(run)
    filled._compiles = True  # fills its passes up; nothing is compiled
    batches = local_stream(run.corpus, run.schedule, cursor=0, rank=0, world_size=1)
    for batch in batches:
        mine, theirs = filled.step(batch), plain.step(batch)
        assert int(mine.weights) == int(theirs.weights)
        assert float(mine.sums) == pytest.approx(float(theirs.sums), rel=1e-6)
        assert float(mine.grad_norm) == pytest.approx(float(theirs.grad_norm), rel=1e-5)


def test_a_model_that_is_compiled_again_and_again_stops_the_run(checked) -> None:
    """Torch would go on without compiling, with a warning that nobody reads.

    By default after eight times, which take seven seconds.
    """
    run = checked(RAMP | {"train.compile": True})
    remedy = r"train\.compile.*limit of 2 times.*set train\.compile to false"
    # By Torch's own patch: its config hides a value that monkeypatch would put back.
    with torch._dynamo.config.patch(recompile_limit=2):
        engine, reader = engine_of(run), reader_of(run.corpus)
        engine._compiles = False  # fills nothing up
        for rows in range(1, 3):
            engine.measure(reader.read(np.arange(rows)))
        with pytest.raises(TrainingError, match=remedy):
            engine.measure(reader.read(np.arange(3)))
