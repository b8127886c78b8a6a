"""From spaces to trials: counts, order, conditions, reproducibility, and what is refused."""

import math
import random

import numpy as np
import pytest
from ray import tune

from manta.config import ConfigError
from manta.tune.parameters import plain, variants
from manta.tune.samplers import draw
from manta.tune.trial import trial_config, trial_schedule

RANDOM = {"type": "random", "trials": 5, "seed": 11}


def params(sweep, space, **sections):
    opened = sweep(space, **sections)
    return list(variants(opened.space, opened.search, opened.base))


def configs(sweep, space, **sections):
    opened = sweep(space, **sections)
    space, base = opened.space, opened.base
    found = [trial_config(base, space, each) for each in variants(space, opened.search, base)]
    for config in found:
        trial_schedule(base, space, config)
    return found


def refused(sweep, space, **sections):
    with pytest.raises(ConfigError) as caught:
        configs(sweep, space, **sections)
    return str(caught.value)


# Counts.


def test_a_grid_is_the_product_of_its_keys_each_once(sweep):
    found = params(
        sweep,
        """
        space = {
            "train.seq_len": tune.grid_search([16, 32, 64]),
            "optimizer.eps": 1e-7,
            "schedule.batch": tune.grid_search([8, 16]),
        }
        """,
    )
    pairs = [(each["train.seq_len"], each["schedule.batch"]) for each in found]
    assert sorted(pairs) == [(length, size) for length in (16, 32, 64) for size in (8, 16)]
    assert {each["optimizer.eps"] for each in found} == {1e-7}


def test_optimizers_are_parameters_with_defaults_of_their_own(sweep):
    space = """
        space = {
            "optimizer.type": tune.grid_search(["adamw", "muon", "lion"]),
            "optimizer.weight_decay": tune.grid_search([0.1, 1.0]),
        }
        """
    found = {(c.optimizer.type, c.optimizer.betas) for c in configs(sweep, space)}
    assert found == {("adamw", (0.9, 0.95)), ("muon", (0.9, 0.95)), ("lion", (0.9, 0.99))}


def test_seeds_multiply(sweep):
    space = "space = {'schedule.batch': tune.grid_search([8, 16])}\nseeds = [4, 2]"
    found = [(c.schedule.batch, c.run.seed) for c in configs(sweep, space)]
    assert found == [(8, 4), (8, 2), (16, 4), (16, 2)]


def test_without_seeds_the_base_has_its_own(sweep):
    (only,) = configs(sweep, "space = {}")
    assert only.run.seed == 7


def test_a_grid_draws_what_is_random_at_each_of_its_points(sweep):
    space = "space = {'a': tune.grid_search([1, 2]), 'b': tune.uniform(0, 1)}"
    found = params(sweep, space, search={"type": "grid", "trials": 3})
    assert [each["a"] for each in found] == [1, 2] * 3
    assert len({each["b"] for each in found}) == 6


def test_random_draws_from_grids_too(sweep):
    space = "space = {'a': tune.grid_search([{'b': tune.grid_search([1, 2])}, {'c': 3}])}"
    found = params(sweep, space, search=RANDOM | {"trials": 30})
    assert len(found) == 30
    assert {str(each["a"]) for each in found} == {"{'b': 1}", "{'b': 2}", "{'c': 3}"}


def test_trials_that_do_not_fit_the_space_are_refused(sweep):
    drawn = "space = {'a': 1, 'optimizer.eps': tune.loguniform(1e-9, 1e-7)}"
    text = refused(sweep, drawn)
    assert text.startswith("search.trials is missing: optimizer.eps in")
    fixed = "space = {'schedule.batch': tune.grid_search([8, 16])}"
    text = refused(sweep, fixed, search={"type": "grid", "trials": 2})
    assert "nothing in" in text
    assert "remove search.trials, or give more seeds" in text


# Draws.

DRAWN = """
    space = {
        "a": tune.uniform(0, 1),
        "b": tune.uniform(0, 1),
        "c": [{"d": tune.choice(["x", "y", "z"])}],
        "e": tune.sample_from(lambda trial: trial["a"] * 2),
    }
"""


def test_draws_are_the_same_at_every_call_and_the_first_of_more(sweep):
    few = params(sweep, DRAWN, search=RANDOM)
    assert params(sweep, DRAWN, search=RANDOM) == few
    assert params(sweep, DRAWN, search=RANDOM | {"trials": 9})[:5] == few
    assert params(sweep, DRAWN, search=RANDOM | {"seed": 12})[0] != few[0]


def test_draws_depend_on_nothing_but_the_seed(sweep):
    """The same on every machine: NumPy promises the stream of PCG64."""
    np.random.seed(1)
    random.seed(1)
    first = params(sweep, DRAWN, search=RANDOM)[0]
    stream = np.random.default_rng(11)
    assert (first["a"], first["b"]) == (stream.uniform(), stream.uniform())


def test_keys_are_drawn_independently(sweep):
    for each in params(sweep, DRAWN, search=RANDOM):
        assert each["a"] != each["b"]
        assert each["e"] == 2 * each["a"]


def test_ray_tunes_resolution_is_what_we_take_it_for():
    """Guards the one call into Ray Tune's developers' interface."""
    values = {"a": tune.grid_search([1, 2]), "b": [tune.randint(0, 10**9)], "c": {"d": 5}}
    found = list(draw(values, np.random.default_rng(0)))
    stream = np.random.default_rng(0)
    assert [each["a"] for each in found] == [1, 2]
    assert [each["b"] for each in found] == [[stream.integers(0, 10**9)] for _ in range(2)]
    assert [each["c"] for each in found] == [{"d": 5}] * 2
    assert list(draw({}, stream)) == [{}]


# Conditions.

BRANCHES = """
    space = {
        "schedule.lr": tune.grid_search([
            {"name": "wsd", "decay": tune.grid_search(["10%", "20%"])},
            {"name": "cosine"},
        ]),
        "schedule.lr.peak": tune.grid_search([0.1, 0.2]),
    }
"""


def test_a_key_of_one_branch_is_there_only(sweep):
    found = params(sweep, BRANCHES)
    branches = [each["schedule.lr"] for each in found]
    assert all(("decay" in lr) == (lr["name"] == "wsd") for lr in branches)
    assert len(branches) == 2 * (2 + 1)
    rates = {
        (c.schedule.lr.name, c.schedule.lr.decay, c.schedule.lr.peak)
        for c in configs(sweep, BRANCHES)
    }
    assert rates == {
        (*b, p) for b in [("wsd", "10%"), ("wsd", "20%"), ("cosine", None)] for p in (0.1, 0.2)
    }


def test_a_branch_drawn_at_random_draws_its_own_keys_only(sweep):
    space = """
        space = {"schedule.lr": tune.choice([
            {"name": "wsd", "peak": 0.1, "decay": tune.choice(["10%", "20%"])},
            {"name": "cosine", "peak": tune.uniform(0.1, 0.2)},
        ])}
    """
    names = set()
    for lr in [each.schedule.lr for each in configs(sweep, space, search=RANDOM | {"trials": 20})]:
        names.add(lr.name)
        assert (lr.decay is not None) == (lr.name == "wsd")
        assert (lr.peak == 0.1) == (lr.name == "wsd")
    assert names == {"wsd", "cosine"}


def test_a_single_key_may_depend_on_another_by_a_function(sweep):
    space = """
        space = {
            "schedule.lr.decay": tune.sample_from(
                lambda trial: "30%" if trial["schedule.lr.name"] == "wsd" else None
            ),
            "schedule.lr.name": tune.grid_search(["wsd", "linear"]),
        }
    """
    found = {c.schedule.lr.name: c.schedule.lr.decay for c in configs(sweep, space)}
    assert found == {"wsd": "30%", "linear": None}


def test_functions_see_choices_that_stand_below_them_or_are_nested(sweep):
    """In Ray Tune's own pass a nested grid would be shown unresolved, then drawn twice."""
    space = """
        space = {
            "first": tune.sample_from(lambda trial: trial["_ramp"]["start"] + trial["_x"]),
            "_ramp": tune.grid_search([{"start": tune.grid_search([1, 2])}, {"start": 5}]),
            "_x": tune.choice([10, 20]),
            "second": tune.sample_from(lambda trial: trial["first"] + 1),
        }
    """
    found = params(sweep, space, search={"type": "grid", "trials": 2})
    assert len(found) == 6
    for each in found:
        assert each["first"] == each["_ramp"]["start"] + each["_x"]
        assert each["second"] == each["first"] + 1


def test_functions_inside_a_structure_and_in_the_spec_manner(sweep):
    space = """
        space = {
            "_peak": tune.grid_search([0.1, 0.2]),
            "schedule.lr": [
                {"shape": "linear", "from": 0, "to": tune.sample_from(
                    lambda spec: spec.config["_peak"]), "tokens": "10%"},
                {"shape": "linear", "to": 0},
            ],
        }
    """
    assert [c.schedule.lr[0].end for c in configs(sweep, space)] == [0.1, 0.2]


def test_functions_see_the_base_where_the_trial_chose_nothing(sweep):
    space = """
        space = {
            "schedule.lr": {"name": "cosine", "peak": 0.5},
            "_read": tune.sample_from(lambda trial: [
                trial["train.seq_len"],        # only the base has it
                trial["schedule.lr.peak"],     # the trial's, within what it chose
                trial.base["schedule.lr.peak"],
                trial.base.peak, trial.base.batch, trial.base.horizon,
            ]),
        }
    """
    assert params(sweep, space)[0]["_read"] == [16, 0.5, 0.1, 0.1, 8, 1_000_000]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("lambda trial: trial['nothing']", "mine.py:2: a: its function fails: KeyError: 'nothing'"),
        ("lambda trial: trial['train.x']", "mine.py:2: a: its function fails: KeyError: 'x'"),
        ("lambda trial: 1 / 0", "mine.py:2: a: its function fails: ZeroDivisionError"),
        ("lambda: __import__('random').random()", "mine.py:2: a: its function returns 0."),
        ("lambda trial: trial['a']", "mine.py:2: a depends on itself: a → a"),
        ("lambda trial: trial['b']", "mine.py:2: a depends on itself: a → b → a"),
        ("lambda trial: tune.uniform(0, 1)", "samplers must be in the space itself"),
        ("lambda trial: tune.grid_search([1])", "samplers must be in the space itself"),
        ("lambda trial: object()", "can't be a parameter"),
        ("lambda trial: float('nan')", "mine.py:2: a: nan can't be a parameter"),
    ],
)
def test_functions_that_fail_are_named(sweep, function, message):
    circle = "tune.sample_from(lambda trial: trial['a'])"
    space = f"space = {{'a': tune.sample_from({function}), 'b': {circle}}}"
    assert message in refused(sweep, space)


def test_parameters_are_plain():
    value = (np.float32(0.5), np.int64(3), np.bool_(True), {"a": np.arange(2)}, None, "x")
    made = plain(value, "key")
    assert made == [0.5, 3, True, {"a": [0, 1]}, None, "x"]
    assert [type(item) for item in made[:3]] == [float, int, bool]
    with pytest.raises(ConfigError, match=r"^key: inf can't"):
        plain([math.inf], "key")
    with pytest.raises(ConfigError, match=r"^key: nan can't"):
        plain(np.float64("nan"), "key")


# On the base.


def test_items_of_lists_are_addressed_as_overrides_do(sweep):
    lists = {"overrides": ["schedule.lr=[{from: 0.3, tokens: 10%}, {shape: linear, to: 0}]"]}
    space = "space = {'schedule.lr.1.to': tune.grid_search([0.1, 0.2])}"
    assert [c.schedule.lr[1].end for c in configs(sweep, space, **lists)] == [0.1, 0.2]
    text = refused(sweep, "space = {'schedule.lr.2.to': 0.1}", **lists)
    said = "'2' must be an index of a list with 2 items: 0 to 1"
    assert f"mine.py:2: 'schedule.lr.2.to': {said}" in text


def test_a_whole_section_goes_before_its_keys(sweep):
    space = "space = {'schedule.lr.peak': 0.4, 'schedule.lr': {'name': 'linear', 'peak': 0.2}}"
    (only,) = configs(sweep, space)
    assert (only.schedule.lr.name, only.schedule.lr.peak) == ("linear", 0.4)


def test_the_base_is_not_changed_by_its_trials(sweep):
    opened = sweep("space = {'schedule.lr.peak': tune.grid_search([0.2, 0.3])}")
    for each in variants(opened.space, opened.search, opened.base):
        trial_config(opened.base, opened.space, each)
    assert opened.base.written.data["schedule"]["lr"]["peak"] == 0.1


def test_keys_with_an_underscore_stay_out_of_the_config(sweep):
    opened = sweep("space = {'_why': 'x', 'train.seq_len': 64}")
    (only,) = variants(opened.space, opened.search, opened.base)
    assert only == {"_why": "x", "train.seq_len": 64}
    assert trial_config(opened.base, opened.space, only).train.seq_len == 64


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            "{'train.seqlen': 8}",
            "mine.py:2: unknown key 'train.seqlen'; did you mean 'train.seq_len'?",
        ),
        ("{'schedule.lr.peek': 8}", "mine.py:2: unknown key 'schedule.lr.peek'; did you mean"),
        ("{'train.seq_len': 0}", "mine.py:2: train.seq_len = 0: input should be"),
        (
            "{'schedule.lr.name': 'cosine'}",
            "run.yaml:7 with mine.py:2: schedule.lr: 'decay' is only for wsd",
        ),
        (
            "{'schedule.lr.warmup': '90%'}",
            "mine.py on run.yaml: schedule.lr.decay = 20%: together with the warmup of 90%",
        ),
    ],
)
def test_a_trial_that_can_not_be_is_blamed_on_the_space(sweep, tmp_path, space, message):
    text = refused(sweep, f"space = {space}")
    assert text.replace(f"{tmp_path}/", "").startswith(message)


def test_a_wrong_seed_is_blamed_on_the_seeds(sweep):
    text = refused(sweep, f"space = {{}}\nseeds = [{2**63}]")
    assert "mine.py:3: run.seed = " in text


# The base's schedules, multiplied.


@pytest.mark.parametrize(
    ("lr", "twice"),
    [
        ("0.1", 0.2),
        (
            "{name: wsd, peak: 0.1, decay: 20%, floor: 0.01}",
            {"name": "wsd", "peak": 0.2, "decay": "20%", "floor": 0.02},
        ),
        (
            "[{shape: linear, from: 0, to: 0.1, tokens: 10%}, {from: 0.1}]",
            [{"shape": "linear", "from": 0, "to": 0.2, "tokens": "10%"}, {"from": 0.2}],
        ),
    ],
)
def test_any_form_of_learning_rate_is_multiplied(sweep, lr, twice):
    by_space = "space = {'schedule.lr': tune.sample_from(lambda trial: trial.base.lr_times(2))}"
    (found,) = configs(sweep, by_space, overrides=[f"schedule.lr={lr}"])
    (wanted,) = configs(sweep, f"space = {{'schedule.lr': {twice!r}}}")
    assert found.schedule == wanted.schedule


@pytest.mark.parametrize(
    ("batch", "thrice"),
    [
        ("8", 24),
        (
            "{name: ramp, from: 8, to: 16, over: 10%, multiple_of: 4}",
            {"name": "ramp", "from": 24, "to": 48, "over": "10%", "multiple_of": 12},
        ),
        (
            "[{from: 4, tokens: 10%}, {shape: linear, to: 8}]",
            [
                {"from": 12, "tokens": "10%", "multiple_of": 3},
                {"shape": "linear", "to": 24, "multiple_of": 3},
            ],
        ),
    ],
)
def test_any_form_of_batch_is_multiplied(sweep, batch, thrice):
    by_space = "space = {'schedule.batch': tune.sample_from(lambda t: t.base.batch_times(3))}"
    (found,) = configs(sweep, by_space, overrides=[f"schedule.batch={batch}"])
    (wanted,) = configs(sweep, f"space = {{'schedule.batch': {thrice!r}}}")
    assert found.schedule == wanted.schedule
