"""The plan of a sweep says what is odd about its trials, before anything runs."""

import pytest
from rich.console import Console
from saved_models import saved_llama

from manta.config.errors import ConfigError
from manta.record.number_format import memory
from manta.tune.plan_report import plan
from manta.tune.sweep_command import show_plan
from manta.tune.sweep_plan import Outline

GRID = "space = {'schedule.batch': tune.grid_search([1, 8, 4000])}"
ADAPTED = """\
run: {name: base}
corpus: shards
model: {pretrained: BASE, adapter: {}}
train: {seq_len: 16}
schedule: {horizon: 1M, lr: 0.1, batch: 8}
eval: {every: 100K}
"""
OPTUNA = {"type": "optuna", "trials": 5}


@pytest.fixture
def planned(sweep, make_corpus, tmp_path, capsys):
    """What is printed of a sweep on 16 tokens × 3,000 samples of training text."""
    manifest = make_corpus(tmp_path / "shards", {"train": [[48_000]], "validation": [[100]]})

    def show(space, **sections):
        outline = Outline(sweep(space, **sections).config)
        Console(highlight=False, width=400).print(plan(outline, manifest))
        return capsys.readouterr().out.splitlines()

    return show


def test_what_is_odd_is_said_once_with_the_number_of_trials(planned):
    notes = [line for line in planned(GRID, workers={"min": 2}) if line.startswith("Note")]
    assert len(notes) == 3
    assert notes[0].startswith("Note          schedule.horizon = 1M is ")
    assert "trials)" not in notes[0]
    assert "scaling.min = 2, but schedule.batch is only 1 in each step" in notes[1]
    assert "(1 of 3 trials)" in notes[1]
    assert "a step has 4,000 samples, but the train split has only 3,000" in notes[2]


def test_of_trials_that_nobody_knows_yet_the_base_is_looked_at(planned):
    (note,) = (line for line in planned(GRID, search=OPTUNA) if line.startswith("Note"))
    assert "schedule.horizon = 1M is 20.8 epochs" in note


def test_room_on_disk_is_that_of_what_checkpoints_hold(sweep, make_corpus, tmp_path, capsys):
    """Not of frozen weights; of each trial by its own model."""
    make_corpus(tmp_path / "shards", {"train": [[48_000]], "validation": [[100]]})
    base = saved_llama(tmp_path / "base", vocabulary=300)
    run = ADAPTED.replace("BASE", str(base))
    space = "space = {'model.adapter.rank': tune.grid_search([2, 4])}"
    show_plan(sweep(space, run=run).config)
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Disk"))
    # Of a layer: q and o are 32 x 32, k and v too, gate and up 32 x 64, down 64 x 32.
    of_rank = 2 * (4 * (32 + 32) + 3 * (32 + 64))
    kept = 3  # checkpoint.keep is 2
    size = (4 + 8) * kept * (2 + 4) * of_rank  # weight and moments
    assert f"at most {2 * kept} checkpoints, {memory(size)}; " in row


def test_nothing_is_said_of_usual_trials(planned):
    space = "space = {'schedule.horizon': tune.grid_search(['150K'])}"
    assert not [line for line in planned(space) if line.startswith("Note")]


# A curriculum of web and code: up to 70 % alike, and then as each trial has it.
CURRICULA = """
def sources(end):
    web = [{'from': 90, 'until': '70%'}, {'shape': 'linear', 'to': end}]
    code = [{'from': 10, 'until': '70%'}, {'shape': 'linear', 'to': 100 - end}]
    return {'web': {'weight': web}, 'code': {'weight': code}}

space = {'data.mixture.sources': tune.grid_search([sources(90), sources(60), sources(30)])}
"""


def test_curricula_share_what_is_alike(sweep, make_corpus, tmp_path):
    layout = {"train": [[48_000], [16_000]], "validation": [[100]]}
    make_corpus(tmp_path / "shards", layout, sources=("web", "code"))
    outline = Outline(sweep(CURRICULA).config)
    [root] = outline.forest
    assert root.count == 3
    assert root.tokens == 700_032 - 128, "the step that the first changed sample is in is not alike"
    shared = sum(stage.tokens for stage in root.walk())
    assert shared == pytest.approx(0.7e6 + 3 * 0.3e6, rel=1e-3)


def test_a_source_that_is_not_there_is_refused_with_the_space(sweep, make_corpus, tmp_path):
    make_corpus(tmp_path / "shards", {"train": [[48_000]], "validation": [[100]]})
    opened = sweep("space = {'data.mixture.sources': tune.grid_search([{'web': {}}])}")
    with pytest.raises(
        ConfigError, match=r"mine\.py on .*run\.yaml: data\.mixture\.sources\.web: "
    ):
        Outline(opened.config)
