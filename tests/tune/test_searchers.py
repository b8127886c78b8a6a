"""Ray Tune's searchers on spaces of ours: whole suggestions, repeatable, and clear refusals."""

import sys
from types import SimpleNamespace
from typing import get_args

import pytest
from ray.tune.search import SEARCH_ALG_IMPORT, Searcher

from manta.config import ConfigError
from manta.config.sweep import Search, SearchSection
from manta.tune import searchers
from manta.tune.searchers import searcher
from manta.tune.trial import trial_config

OPTUNA = {"type": "optuna", "trials": 30, "seed": 5}
SPACE = """
    space = {
        "schedule.lr": tune.grid_search([
            {"name": "wsd", "peak": tune.uniform(0.1, 0.2), "decay": tune.choice(["10%", "20%"])},
            {"name": "cosine", "peak": tune.loguniform(0.3, 0.9)},
        ]),
        "train.seq_len": tune.sample_from(lambda trial: 8 * trial["_eights"]),
        "_eights": tune.randint(1, 5),
        "schedule.batch": [{"from": tune.grid_search([8, 16])}],
    }
"""


def opened(sweep, space=SPACE, **search):
    found = sweep(space, search=OPTUNA | search)
    return found, searcher(found.space, found.search, found.base)


def suggestions(suggester, value=lambda params: 1.0):
    found = []
    while (params := suggester.suggest(f"trial-{len(found)}")) != Searcher.FINISHED:
        suggester.on_trial_complete(f"trial-{len(found)}", {"val_loss": value(params)})
        found.append(params)
    return found


def test_suggestions_are_whole_trials_within_the_space(sweep):
    found, suggester = opened(sweep)
    configs = [trial_config(found.base, found.space, each) for each in suggestions(suggester)]
    assert len(configs) == 30
    for config in configs:
        lr = config.schedule.lr
        assert (lr.decay in ("10%", "20%")) if lr.name == "wsd" else lr.decay is None
        assert 0.1 <= lr.peak <= 0.2 if lr.name == "wsd" else 0.3 <= lr.peak <= 0.9
        assert config.train.seq_len in (8, 16, 24, 32)
        assert config.schedule.batch[0].start in (8, 16)
    assert {config.schedule.lr.name for config in configs} == {"wsd", "cosine"}


def test_suggestions_repeat_with_the_seed(sweep):
    first = suggestions(opened(sweep)[1])
    assert suggestions(opened(sweep)[1]) == first
    assert suggestions(opened(sweep, seed=6)[1]) != first


def test_a_searcher_learns_what_it_is_told(sweep):
    """Optuna comes to the better branch, and random search does not."""
    names = [
        each["schedule.lr"]["name"]
        for each in suggestions(
            opened(sweep, trials=60)[1],
            lambda params: 0.0 if params["schedule.lr"]["name"] == "cosine" else 1.0,
        )
    ]
    assert names[-20:].count("cosine") >= 17
    assert 2 <= names[:10].count("cosine") <= 8  # the first ten are at random


def test_mode_of_the_space_counts(sweep):
    suggester = opened(sweep, SPACE + "    mode = 'max'", trials=60)[1]
    found = suggestions(
        suggester, lambda params: 0.0 if params["schedule.lr"]["name"] == "cosine" else 1.0
    )
    assert [each["schedule.lr"]["name"] for each in found[-20:]].count("wsd") >= 17


def test_a_searcher_asked_and_told_the_same_is_the_same(sweep):
    def value(params):
        return params["train.seq_len"] / 8

    first, again = opened(sweep)[1], opened(sweep)[1]
    suggested = [first.suggest("0"), first.suggest("1")]
    for number in range(2, 30):  # two at a time: the older one ends first
        params = suggested[number - 2]
        first.on_trial_complete(str(number - 2), {"val_loss": value(params)})
        suggested.append(first.suggest(str(number)))
    assert [again.suggest("0"), again.suggest("1")] == suggested[:2]
    for number in range(2, 30):
        again.on_trial_complete(str(number - 2), {"val_loss": value(suggested[number - 2])})
        assert again.suggest(str(number)) == suggested[number]
    assert first.suggest("one more") == Searcher.FINISHED


def test_a_failed_trial_is_no_result(sweep):
    suggester = opened(sweep)[1]
    suggester.suggest("a")
    suggester.on_trial_complete("a", None, error=True)
    assert isinstance(suggester.suggest("b"), dict)


def test_options_reach_the_searcher_and_unknown_ones_are_refused(sweep):
    suggester = opened(sweep, options={"study_name": "mine"})[1]
    assert suggester._inner._ot_study.study_name == "mine"
    with pytest.raises(
        ConfigError, match=r"^search\.options\.study: optuna has no such option; it"
    ):
        opened(sweep, options={"study": "mine"})


def test_a_missing_package_is_named_with_the_command(sweep, monkeypatch):
    # Missing here or not: the module looks for its package once, when it is imported.
    monkeypatch.setattr("ray.tune.search.hyperopt.hyperopt_search.hpo", None)
    with pytest.raises(ConfigError) as caught:
        opened(sweep, type="hyperopt")
    assert str(caught.value).startswith("search.type = 'hyperopt': HyperOpt must be installed!")
    assert "pip install hyperopt" in str(caught.value)


def test_an_optimizer_of_nevergrad_is_named(monkeypatch):
    """With a stand-in: the package is not installed with Manta."""
    known = SimpleNamespace(registry={"NGOpt": "default", "OnePlusOne": "one"})
    monkeypatch.setitem(sys.modules, "nevergrad", SimpleNamespace(optimizers=known))

    def optimizer(**options):
        search = SearchSection(type="nevergrad", trials=9, options=options)
        found = searchers._options(search)
        assert found["optimizer_kwargs"] == {"budget": 9}
        return found["optimizer"]

    assert (optimizer(), optimizer(optimizer="OnePlusOne")) == ("default", "one")
    with pytest.raises(ConfigError, match=r"optimizer = 'OnePlusTwo': .*mean OnePlusOne\?"):
        optimizer(optimizer="OnePlusTwo")


@pytest.mark.parametrize("space", ["space = {}", "space = {'a': tune.sample_from(lambda: 1)}"])
def test_spaces_that_can_not_be_searched_are_refused(sweep, space):
    with pytest.raises(ConfigError, match=r"^search\.type = 'optuna': .*has no sampler"):
        opened(sweep, space)


# What Ray Tune's documentation has, and whether Optuna takes it.
SAMPLERS = {
    "uniform(0.1, 0.2)": True,
    "quniform(0.1, 0.3, 0.05)": True,
    "loguniform(0.1, 0.2)": True,
    "qloguniform(0.1, 0.3, 0.05)": True,
    "randn(0, 1)": "normal float",
    "qrandn(0, 1, 0.2)": "quantized normal float",
    "randint(1, 9)": True,
    "qrandint(2, 8, 2)": True,
    "lograndint(1, 9)": True,
    "qlograndint(2, 8, 2)": "quantized loguniform integer",
    "choice([1, 2])": True,
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_is_searched_or_refused_by_its_key(sweep, sampler, nested):
    value = f"[{{'from': tune.{sampler}}}]" if nested else f"tune.{sampler}"
    space = f"space = {{\n'_b': tune.uniform(0, 1),\n'_a': {value},\n}}"
    if SAMPLERS[sampler] is True:
        assert "_a" in opened(sweep, space)[1].suggest("0")
        return
    with pytest.raises(ConfigError) as caught:
        opened(sweep, space)
    text = str(caught.value)
    assert "mine.py:4: _a: search.type = 'optuna' can't search a " + SAMPLERS[sampler] in text
    assert text.endswith("or search.type = 'random', which supports every sampler")


def test_every_searcher_that_can_be_named_is_ray_tunes():
    """Guards the list in the config, which knows no Ray, and Ray Tune's table of searchers."""
    assert set(get_args(Search)) - {"grid"} == set(SEARCH_ALG_IMPORT) - {
        "variant_generator",
        "bohb",
    }
