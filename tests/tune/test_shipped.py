"""The spaces in tune_spaces/ and the example sweep: all of their trials can be run."""

import itertools
from pathlib import Path

import pytest
import yaml

from manta.config import ConfigError, SweepConfig, load_sweep
from manta.config.mistakes import keys
from manta.schedule import Schedule
from manta.tune.base import Base
from manta.tune.parameters import variants
from manta.tune.searchers import searcher
from manta.tune.space import NAMES, load_space, open_space
from manta.tune.trial import trial_config

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "jobs/demo/sweep.yaml"
SPACES = sorted((ROOT / "tune_spaces").glob("*.py"))
TRIALS = {
    "batch_ramp": 1 + 3 * 2 * 2,
    "lr_peak": 5,
    "lr_x_batch": 7 * 3,
    "seeds": 5,
    "wsd_decay": 4 * 2 * 3,
    "wsd_x_ramp": 3 * 4 * 2,
}
# Drawn at random, over the sources of a base that has a mixture.
DRAWN = "mixture"
# Schedules of every form, so that a space that only fits the demo's is found out.
BASES = {
    "demo": [],
    "numbers": ["schedule.lr=1e-3", "schedule.batch=6"],
    "cosine": ["schedule.lr={name: cosine, peak: 2e-3, warmup: 1%, floor: 1e-4}"],
    "segments": [
        "schedule.lr=[{shape: linear, from: 0, to: 1e-3, tokens: 2%}, {shape: linear, to: 0}]",
        "schedule.batch=[{from: 4, tokens: 20%}, {from: 10}]",
    ],
    "long": ["schedule.horizon=20B", "schedule.batch=512", "train.seq_len=2048"],
}


def opened(space, *overrides):
    config = load_sweep(EXAMPLE, [f"space={space}", *overrides])
    found = open_space(config)
    return config, found, Base.open(config, found)


def trials(space, base="demo"):
    """Parameters, config and schedule of each trial."""
    overrides = ["eval.every=44K", *BASES[base]]
    config, found, base = opened(space, f"overrides={yaml.safe_dump(overrides, width=1000)}")
    for params in variants(found, config.search, base):
        run = trial_config(base, found, params)
        yield params, run, Schedule.resolve(run.schedule, run.train.seq_len)


def test_the_table_above_has_them_all():
    assert [path.stem for path in SPACES] == sorted([*TRIALS, DRAWN])


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("space", TRIALS)
def test_every_trial_validates_resolves_and_differs(space, base):
    found = list(trials(space, base))
    assert len(found) == TRIALS[space]
    different = {(s.lr_segments, s.batch_segments, run.run.seed) for _, run, s in found}
    assert len(different) == len(found)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_each_says_in_three_lines_what_it_answers_and_declares_all(path):
    space = load_space(path)
    question, *rest = space.question.splitlines()
    assert question.endswith("?")
    assert len([line for line in rest if line.strip()]) == 2
    assert set(space.lines) >= NAMES


@pytest.mark.parametrize("space", sorted(set(TRIALS) - {"seeds"}))
@pytest.mark.parametrize("search", ["random", "optuna"])
def test_other_searches_find_trials_in_them_too(space, search):
    config, found, base = opened(space, f"search={{type: {search}, trials: 4}}")
    if search == "random":
        drawn = list(variants(found, config.search, base))
    else:
        suggester = searcher(found, config.search, base)
        drawn = [suggester.suggest(str(number)) for number in range(4)]
    assert len(drawn) == 4
    for params in drawn:
        trial_config(base, found, params)


def test_mixtures_are_drawn_of_the_sources_of_the_base():
    sources = "{web: {max_epochs: 4}, code: {}, math: {}}"
    asked = ["search={type: random, trials: 8}", f'overrides=["data.mixture.sources={sources}"]']
    config, found, base = opened(DRAWN, *asked)
    drawn = set()
    for params in variants(found, config.search, base):
        mixture = trial_config(base, found, params).data.mixture
        assert list(mixture.sources) == ["web", "code", "math"]
        assert mixture.sources["web"].max_epochs == 4
        weights = [source.weight for source in mixture.sources.values()]
        assert sum(weights) == pytest.approx(1, abs=1e-3)
        drawn.add(tuple(weights))
    assert len(drawn) == 8
    config, found, base = opened(DRAWN, asked[0])
    with pytest.raises(ConfigError, match=r"name the sources to mix"):
        list(variants(found, config.search, base))


def test_a_grown_batch_has_the_square_root_of_its_growth_as_learning_rate():
    rates = set()
    for params, _, schedule in trials("batch_ramp"):
        ramp = params["_ramp"] or {"start": 0, "growth": 1, "lr": "never"}
        held = int(0.7 * schedule.horizon)  # after every ramp, before the decay
        assert schedule.batch_size(held) == 8 * ramp["growth"]
        times = schedule.lr(held) / 3e-3
        assert times == pytest.approx(ramp["growth"] ** 0.5 if ramp["lr"] == "sqrt" else 1)
        before = int(ramp["start"] / 100 * schedule.horizon) - 1
        if before > 0.05 * schedule.horizon:
            assert (schedule.batch_size(before), schedule.lr(before)) == (8, 3e-3)
        rates.add(ramp["lr"])
    assert rates == {"never", "same", "sqrt"}


@pytest.mark.parametrize("space", ["wsd_decay", "wsd_x_ramp"])
def test_fans_share_their_beginnings(space):
    """Up to where two of them part they are equal; all are for 30 % of the horizon at least."""
    schedules = [schedule for _, _, schedule in trials(space)]
    places = [int(share * schedules[0].horizon / 100) for share in range(30)]
    for one, other in itertools.pairwise(schedules):
        assert [one.lr(p) for p in places] == [other.lr(p) for p in places]
        assert [one.batch_size(p) for p in places] == [other.batch_size(p) for p in places]


def test_decays_start_end_and_stay_where_they_say():
    for params, _, schedule in trials("wsd_decay"):
        start = params["_start"] / 100 * schedule.horizon
        end = start + (schedule.horizon - start) * params["_length"]
        assert schedule.lr(start - 1) == 3e-3
        assert 3e-4 < schedule.lr((start + end) / 2) < 3e-3
        assert schedule.lr(end) == pytest.approx(3e-4)
        assert schedule.lr(schedule.horizon) == pytest.approx(3e-4)


def test_the_example_explains_every_section():
    config = load_sweep(EXAMPLE)
    assert config.search.type == "grid"
    text = EXAMPLE.read_text()
    for name in dict.fromkeys(key.split(".")[0] for key in keys(SweepConfig)):
        assert f"\n{name}:" in text or f"\n# {name}:" in text
