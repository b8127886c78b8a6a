"""The norm of a first pass is that of a step of its samples alone, on one rank and on two."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_runs import engine_of, train
from small_runs import STEP, config_of, make_corpus_here, opened

from manta.sample.columns import sliced
from manta.stream.plan import RankBatch, local_stream
from manta.train.first_pass import as_row


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_corpus_here()


def test_it_is_the_norm_of_a_step_of_its_samples_alone() -> None:
    checked = opened(config_of(train={"seq_len": 16, "micro_batch": 3}))
    whole = next(local_stream(checked.corpus, checked.schedule, cursor=0, rank=0, world_size=1))
    result = engine_of(checked).step(whole, shares=True)
    assert result.shares is not None
    found = as_row([result.shares[0, 1:].tolist()])
    assert found["pass_samples"] == pytest.approx(2), "seven rows in three passes: 2, 2, 3"

    lone = opened(config_of("lone", schedule={"horizon": STEP, "lr": 1e-3, "batch": 2}))
    samples = sliced(whole.samples, slice(0, 2))
    batch = RankBatch(lone.schedule.step(0), whole.ids[:2], samples)
    alone = engine_of(lone).step(batch, shares=True)
    assert found["grad_norm_pass"] == pytest.approx(float(alone.grad_norm), rel=1e-5)
    assert alone.shares is not None
    assert as_row([alone.shares[0, 1:].tolist()]) == {}, "a step of one pass has no smaller batch"


def test_ranks_have_a_pass_each_and_rows_without_several_passes_have_none() -> None:
    changes = {"train": {"seq_len": 16, "micro_batch": 2}, "checkpoint": {}, "eval": {}}
    rows = train(opened(config_of("two", **changes)), 2)
    logged = [row for row in rows if "loss" in row]
    assert len(logged) == 12
    # Three and four rows, in two passes each: the first has one row, or two.
    assert all(row["pass_samples"] == pytest.approx(4 / 3) for row in logged)
    assert all(row["grad_norm_pass"] > 0 for row in logged)
