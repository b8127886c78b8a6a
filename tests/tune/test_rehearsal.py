"""Trials are built before any is run: a sweep fails at once or not for its config."""

import pytest

from manta.config import ConfigError
from manta.tune.sweep_command import show_plan
from manta.tune.sweep_plan import Outline

GRID = "space = {'schedule.batch': tune.grid_search([8, 16, 32])}\nseeds = [1, 2]"
OPTUNA = {"type": "optuna", "trials": 5}


def rehearsed(sweep, space, **sections):
    return Outline(sweep(space, **sections).config).count


def test_trials_are_counted(sweep):
    assert rehearsed(sweep, GRID) == 6
    assert rehearsed(sweep, GRID, search={"type": "random", "trials": 4}) == 8
    assert rehearsed(sweep, GRID, search=OPTUNA) == 10


@pytest.mark.parametrize("search", [{"type": "grid"}, OPTUNA])
def test_the_one_trial_that_can_not_be_is_found(sweep, search):
    space = "space = {'train.seq_len': tune.grid_search([8, 16, 32, 0])}"
    with pytest.raises(ConfigError, match=r"mine\.py:2: train\.seq_len = 0: "):
        rehearsed(sweep, space, search=search)


def test_rungs_must_fit_the_horizon_of_every_trial(sweep):
    halving = {"type": "halving", "rungs": ["100K", "300K"]}
    rehearsed(sweep, GRID, scheduler=halving)
    short = "space = {'schedule.horizon': tune.grid_search(['1M', '200K'])}"
    with pytest.raises(ConfigError, match=r"^scheduler\.rungs: .*below the horizon of 200K"):
        rehearsed(sweep, short, scheduler=halving)


def test_rungs_go_by_the_horizon_that_the_sweep_gives(sweep):
    halving = {"type": "halving", "rungs": ["1.5M"]}
    with pytest.raises(ConfigError, match="below the horizon of 1M"):
        rehearsed(sweep, GRID, scheduler=halving)
    assert rehearsed(sweep, GRID, scheduler=halving, horizon="2M") == 6


def test_the_plan_asks_the_searcher(sweep):
    space = "space = {'_a': tune.qlograndint(2, 8, 2), 'schedule.batch': tune.choice([8])}"
    with pytest.raises(ConfigError, match=r"mine\.py:2: _a: search\.type = 'optuna' can't search"):
        show_plan(sweep(space, search=OPTUNA).config)
