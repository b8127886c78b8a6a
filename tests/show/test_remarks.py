"""Remarks: what is odd about a plan is said, and what is usual is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from manta.config import RunConfig, load
from manta.schedule import Schedule
from manta.show.console.remarks import REMARKS, PlannedRun, remarks

DEMO = Path(__file__).parents[2] / "jobs/demo/run.yaml"


@pytest.fixture
def said(make_corpus, make_config, tmp_path):
    """What is said of a run on 1,000 tokens of training text: 100 samples of 10 tokens."""
    manifest = make_corpus(tmp_path / "corpus", {"train": [[1000]], "validation": [[100]]})

    def say(**sections):
        config = make_config(**sections)
        return remarks(PlannedRun(config, manifest, Schedule.resolve(config.schedule, 10)))

    return say


def test_nothing_is_said_of_a_usual_plan(said):
    assert said() == []
    assert said(schedule={"horizon": 4000, "batch": 4}, scaling={"min": 2, "max": 4}) == []
    assert said(eval={"every": 500}, checkpoint={"every": 1000, "at": [20]}, log={"every": 9}) == []


def test_many_epochs(said):
    (line,) = said(schedule={"horizon": 20_000})
    assert line.startswith("schedule.horizon = 20K is 20 epochs of the corpus")
    assert "train split has 1.00K tokens" in line


def test_a_batch_beyond_the_corpus(said):
    (line,) = said(schedule={"batch": [{"from": 100, "tokens": 1500}, {"from": 101}]} | long(3000))
    assert line.startswith(
        "schedule.batch: a step has 101 samples, but the train split has only 100 at"
    )


def long(horizon):
    return {"horizon": horizon}


def test_a_run_of_one_step(said):
    (line,) = said(schedule={"batch": 100})
    assert line.startswith("schedule.horizon = 1K is reached by one step of 1K tokens")


def test_evaluations_of_another_size_than_asked_for(said):
    (line,) = said(eval={"every": 500, "tokens": "1B"})
    assert line == (
        "eval.tokens = 1B, but the validation split has 100 tokens: an evaluation reads all of "
        "it, 10 samples of 10"
    )
    assert said(eval={"every": 500, "tokens": 109}) == []
    (line,) = said(eval={"at": [500], "tokens": 9})
    assert (
        line == "eval.tokens = 9 is less than one sample of train.seq_len = 10: one sample is read"
    )
    assert said(eval={"tokens": "1B"}) == []  # there are no evaluations


@pytest.mark.parametrize(
    ("batch", "scaling", "message"),
    [
        (1, {"min": 2}, "scaling.min = 2, but schedule.batch is only 1 in each step: some workers"),
        (
            [{"from": 2, "tokens": 100}, {"from": 4}],
            {"min": 4},
            "scaling.min = 4, but schedule.batch is only 2 in 5 steps: some workers",
        ),
        (4, {"max": 5}, "scaling.max = 5, but schedule.batch is at most 4: more workers"),
        ([{"from": 2, "tokens": 100}, {"from": 4}], {"max": 4}, None),
    ],
)
def test_workers_without_work(said, batch, scaling, message):
    lines = said(schedule={"batch": batch}, scaling=scaling)
    assert [line.startswith(message or "") for line in lines] == ([True] if message else [])


def test_workers_without_a_micro_batch(said):
    exact = {"reproducible": "any_world_size", "micro_batch": 4, "seq_len": 10}
    (line,) = said(schedule={"batch": 8}, scaling={"max": 3}, train=exact)
    assert line.startswith("train.reproducible cuts a step of 8 samples into 2 micro-batches of")
    assert line.endswith(
        "of 3 workers only 2 have something to do; set train.micro_batch to 2 or less"
    )
    assert said(schedule={"batch": 8}, scaling={"max": 2}, train=exact) == []


def test_what_is_never_due(said):
    assert said(
        eval={"every": 2000, "at": [1000, 1001]},
        checkpoint={"every": 3000, "at": [4000]},
        log={"every": 5000},
    ) == [
        "never reached, because the run ends at 1K: eval.every = 2K, eval.at = 1001, "
        "checkpoint.every = 3K, checkpoint.at = 4K, log.every = 5K"
    ]


def test_several_are_said_at_once_each_on_a_line(said):
    lines = said(schedule={"horizon": 20_000, "batch": 200}, scaling={"max": 300})
    assert len(lines) == 3
    assert not any("\n" in line for line in lines)


def test_each_remark_has_a_docstring_and_a_name_of_its_own():
    names = [remark.__name__ for remark in REMARKS]
    assert len(set(names)) == len(names)
    assert all(remark.__doc__ for remark in REMARKS)


def test_the_demo_is_a_usual_plan(make_corpus, tmp_path):
    """On a third of the tokens that its corpus has."""
    manifest = make_corpus(tmp_path / "corpus", {"train": [[10**6]]})
    config = load(DEMO, RunConfig)
    schedule = Schedule.resolve(config.schedule, config.train.seq_len)
    assert remarks(PlannedRun(config, manifest, schedule)) == []


def test_nothing_is_said_of_a_corpus_that_is_refused(make_corpus, make_config, tmp_path):
    manifest = make_corpus(tmp_path / "corpus", {"train": [[9]]})
    config = make_config()
    assert remarks(PlannedRun(config, manifest, Schedule.resolve(config.schedule, 10))) == []
