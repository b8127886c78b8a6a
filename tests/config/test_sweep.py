"""Sweep configs: what belongs together, what is refused and how, where files are looked for."""

import pytest
import yaml

from manta.config import ConfigError, RunConfig, SweepConfig, dump, load, load_sweep
from manta.config.load import build
from manta.config.sweep import SchedulerSection, read_base

SWEEP = {"sweep": {"name": "try"}, "base": "run.yaml", "space": "lr_peak"}
RUN = """\
run: {name: demo}
corpus: shards
model: {type: llama}
schedule: {horizon: 1M, lr: 0.1, batch: 8}
scaling: {min: 1, max: 3}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)

    def to_file(**sections):
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SWEEP | sections))
        return "sweep.yaml"

    return to_file


@pytest.fixture
def refused(write):
    def message(**sections):
        with pytest.raises(ConfigError) as caught:
            load(write(**sections), SweepConfig)
        return str(caught.value)

    return message


def test_the_least_sweep_is_a_grid_without_a_scheduler(write):
    config = load(write(), SweepConfig)
    assert (config.search.type, config.scheduler.type, config.concurrent) == ("grid", "none", 1)
    assert config.sweep.storage == "runs"


def test_dumped_sweeps_load_equal(write, tmp_path):
    full = {
        "overrides": ["eval.every=1K"],
        "search": {"type": "optuna", "trials": 9, "seed": 4, "options": {"study_name": "s"}},
        "scheduler": {"type": "halving", "rungs": ["10%", "300K"], "factor": 4},
        "workers": {"min": 1, "max": 2},
        "concurrent": 2,
        "seeds": [3, 1],
        "horizon": "2M",
        "metric": "loss",
        "mode": "max",
    }
    for sections in ({}, full, {"scheduler": {"type": "pbt", "quantile": 0.5}}):
        config = load(write(**sections), SweepConfig)
        (tmp_path / "again.yaml").write_text(dump(config))
        assert load("again.yaml", SweepConfig) == config


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"search": {"type": "random"}}, "search: random needs 'trials'"),
        ({"search": {"type": "optuna"}}, "search: optuna needs 'trials'"),
        ({"search": {"type": "optna", "trials": 1}}, "search.type = 'optna': input should be"),
        (
            {"search": {"type": "random", "trials": 2, "options": {"x": 1}}},
            "search: 'options' are only for a searcher such as optuna, not for random",
        ),
        ({"scheduler": {"type": "halving"}}, "scheduler: halving needs 'rungs', such as"),
        (
            {"scheduler": {"type": "halving", "rungs": ["10%"], "first": "10%"}},
            "scheduler: halving needs 'rungs', such as [10%, 30%], or 'first', such as 10%; not",
        ),
        ({"scheduler": {"type": "halving", "first": "9%", "factor": 1}}, "scheduler.factor = 1"),
        ({"scheduler": {"first": "10%"}}, "scheduler: 'first' is only for halving, not for none"),
        (
            {"scheduler": {"type": "pbt", "factor": 2}},
            "scheduler: 'factor' is only for halving, not for pbt",
        ),
        (
            {"scheduler": {"type": "halving", "first": "9%", "quantile": 0.5}},
            "scheduler: 'quantile' is only for pbt, not for halving",
        ),
        ({"scheduler": {"type": "pbt", "quantile": 0.6}}, "scheduler.quantile = 0.6: input"),
        (
            {"scheduler": {"type": "pbt", "interval": 0}},
            "scheduler: 'interval' must be longer than 0",
        ),
        (
            {"scheduler": {"type": "pbt", "factors": [2, 1]}},
            "scheduler: 'factors' must be a smaller",
        ),
        (
            {"scheduler": {"type": "pbt"}, "search": {"type": "optuna", "trials": 8}},
            "set search.type = 'random'",
        ),
        (
            {"scheduler": {"type": "pbt"}, "search": {"type": "random", "trials": 1}},
            "search.trials = 1: raise search.trials to 4",
        ),
        ({"scheduler": {"type": "pbt"}, "seeds": [0, 1]}, "give one seed"),
        ({"seeds": [1, 1]}, "seeds = [1, 1]: give each seed once"),
        ({"workers": {"min": 2, "max": 1}}, "workers: max 1 is below min 2"),
        ({"workers": {"max": 1}}, "key 'workers.min' is missing"),
        ({"concurrent": 0}, "concurrent = 0: input should be greater"),
        ({"mode": "best"}, "mode = 'best': input should be 'min' or 'max'"),
        ({"sweep": {"name": "a/b"}}, "sweep.name = 'a/b'"),
        ({"scheduller": {}}, "unknown key 'scheduller'; did you mean 'scheduler'?"),
    ],
)
def test_what_does_not_fit_is_named_with_key_and_remedy(refused, sections, message):
    text = refused(**sections)
    assert text.startswith("sweep.yaml")
    assert message in text


def test_rungs_listed_and_by_factor():
    listed = SchedulerSection(type="halving", rungs=["10%", "300K"])
    assert listed.rungs_at(1_000_000) == (100_000, 300_000)
    first = SchedulerSection(type="halving", first="10%")
    assert first.rungs_at(1_000_000) == (100_000, 300_000, 900_000)
    # A rung at the horizon itself would have nothing left to promote for.
    assert SchedulerSection(type="halving", first="25%", factor=2).rungs_at(1000) == (250, 500)
    assert SchedulerSection().rungs_at(1000) == ()


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"rungs": ["30%", "10%"]}, "rungs"),
        ({"rungs": ["10%", "10%"]}, "rungs"),
        ({"rungs": ["0%"]}, "rungs"),
        ({"rungs": ["100%"]}, "rungs"),
        ({"first": "2K"}, "first"),
        ({"first": 0}, "first"),
    ],
)
def test_rungs_must_grow_within_the_horizon(keys, name):
    section = SchedulerSection(type="halving", **keys)
    with pytest.raises(ConfigError, match=rf"^scheduler\.{name}: .*below the horizon of 1K"):
        section.rungs_at(1000)


def test_interval_of_pbt_in_tokens():
    assert SchedulerSection(type="pbt").interval_at(1000) == 100
    assert SchedulerSection(type="pbt", interval="2K").interval_at(1_000_000) == 2000


def test_files_are_looked_for_beside_the_sweep(write, tmp_path, monkeypatch):
    write(space="spaces/mine.py")
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces/mine.py").write_text("space = {}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_sweep("../sweep.yaml")
    assert config.base == str(tmp_path / "run.yaml")
    assert config.space == str(tmp_path / "spaces/mine.py")
    assert load_sweep("../sweep.yaml", ["space=lr_peak"]).space == "lr_peak"


@pytest.mark.parametrize("change", [{"base": "no.yaml"}, {"space": "no.py"}])
def test_missing_files_are_named_with_their_key(write, tmp_path, change):
    ((key, name),) = change.items()
    with pytest.raises(ConfigError, match=f"{key} = '{name}': no such file in {tmp_path}"):
        load_sweep(write(**change))


def test_base_takes_overrides_and_workers(write):
    config = load_sweep(write(overrides=["train.seq_len=64"], workers={"min": 2}))
    run = build(read_base(config), RunConfig)
    assert (run.train.seq_len, run.scaling.min, run.scaling.max) == (64, 2, None)
    kept = build(read_base(load_sweep(write())), RunConfig)
    assert (kept.scaling.min, kept.scaling.max) == (1, 3)


def test_a_wrong_override_is_blamed_on_the_sweep(write):
    config = load_sweep(write(overrides=["train.seqlen=64"]))
    with pytest.raises(ConfigError, match=r"^overrides of the sweep: unknown key 'train.seqlen'"):
        build(read_base(config), RunConfig)
    with pytest.raises(ConfigError, match=r"^overrides of the sweep: 'x': write an override as"):
        read_base(load_sweep(write(overrides=["x"])))
