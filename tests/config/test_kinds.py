"""A file of another kind is called by its name, with the command that takes it."""

import itertools
from pathlib import Path

import pytest
from written_configs import CORPUS, RUN

from manta.cluster.doctor import read_plan
from manta.config import ConfigError, CorpusConfig, RunConfig, SweepConfig
from manta.config.drift import DriftConfig
from manta.config.evaluation import EvaluationConfig
from manta.config.gate import GateConfig
from manta.config.kinds import KINDS, kind_of
from manta.config.retraining import RetrainConfig
from manta.config.tuning import TuningConfig

SWEEP = "sweep: {name: x}\nbase: run.yaml\nspace: x\n"
TUNING = "tuning: {name: x}\nbase: run.yaml\n"
EVALUATION = "name: x\nsplits: {}\n"
GATE = "name: x\nthresholds: {}\n"
DRIFT = "limits: {}\n"
RETRAINING = "champion: a@b\ntriggers: {}\n"
CLUSTER = "cluster_name: x\nprovider: {type: aws}\n"
FILES = {
    "a run": (RUN, RunConfig, "manta train"),
    "a corpus": (CORPUS, CorpusConfig, "manta prepare"),
    "a sweep": (SWEEP, SweepConfig, "manta sweep"),
    "a tuning": (TUNING, TuningConfig, "manta tune"),
    "a cluster": (CLUSTER, None, "manta doctor"),
    "an evaluation": (EVALUATION, EvaluationConfig, "manta evaluate MODEL"),
    "a gate": (GATE, GateConfig, "manta gate MODEL"),
    "a retraining": (RETRAINING, RetrainConfig, "manta retrain"),
    "a look at drift": (DRIFT, DriftConfig, "manta drift NEW --config"),
}


PAIRS = [pair for pair in itertools.permutations(FILES, 2) if pair[1] != "a cluster"]


@pytest.mark.parametrize(("given", "asked"), PAIRS)
def test_a_file_of_another_kind_is_one_line(refused, given, asked):
    text, _, command = FILES[given]
    assert refused(text, kind=FILES[asked][1]) == [
        f"run.yaml: this is the config of {given}, not of {asked}; it is for: {command} run.yaml"
    ]


@pytest.mark.parametrize("given", ["a run", "a corpus", "a sweep"])
def test_a_config_in_place_of_a_cluster_file(write, given):
    text, _, command = FILES[given]
    path = Path(write(text))
    with pytest.raises(ConfigError) as caught:
        read_plan(path)
    assert str(caught.value) == (
        f"run.yaml: this is the config of {given}, not of a cluster; it is for: {command} run.yaml"
    )


def test_overrides_do_not_make_it_another_kind(refused):
    (line,) = refused(CORPUS, "run.name=x", "schedule.horizon=1M")
    assert line.startswith("run.yaml: this is the config of a corpus, not of a run")


def test_a_mistake_in_a_file_of_the_right_kind_is_not_taken_for_another_kind(refused):
    lines = refused(RUN + "out: x\nsources: []\ntokenizer: x\n")
    assert [line.partition("'")[0] for line in lines] == [
        f"run.yaml:{number}: unknown key " for number in (8, 9, 10)
    ]
    assert "unknown key 'nonsense'" in "\n".join(refused("nonsense: 1\n"))


@pytest.mark.parametrize("name", ["a run", "a corpus", "a sweep", "a tuning"])
def test_marks_are_the_keys_that_such_a_config_needs(name):
    kind = next(kind for kind in KINDS if kind.of == name)
    fields = FILES[name][1].model_fields
    assert kind.marks == {key for key, field in fields.items() if field.is_required()}
    assert kind_of(fields) == kind
