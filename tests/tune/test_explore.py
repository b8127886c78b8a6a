"""Population-based training: what is changed where a trial takes over another one's weights."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from tiny_config import STEP, run_config, write_yaml

from manta.config.errors import ConfigError
from manta.config.sweep import load_sweep
from manta.record.sweep_state import SweepState, Takeover, write_sweep
from manta.tune.explore import explored
from manta.tune.sweep_plan import Outline

SPACE = """
    "_growth": tune.choice([1, 2, 4]),
    "schedule.lr": tune.loguniform(1e-3, 1e-2),
    "schedule.batch": tune.sample_from(lambda trial: 4 * trial["_growth"]),
"""


def outline_of(folder, space: str = SPACE, **scheduler) -> Outline:
    """A sweep of four trials with a mark each ten steps; its corpus is never read."""
    config = run_config(
        folder / "runs",
        folder / "corpus",
        schedule={"horizon": 40 * STEP},
        eval={"every": 10 * STEP},
    )
    write_yaml(folder / "run.yaml", config)
    (folder / "space.py").write_text(
        f'"""Which?"""\n\nfrom ray import tune\n\nspace = {{{space}}}\n'
    )
    sweep = {
        "sweep": {"name": "pbt", "storage": str(folder / "runs")},
        "base": "run.yaml",
        "space": "./space.py",
        "search": {"type": "random", "trials": 4},
        "scheduler": {"type": "pbt", "interval": "25%", **scheduler},
    }
    return Outline(load_sweep(write_yaml(folder / "sweep.yaml", sweep)))


def changed(outline: Outline, params: dict, seed: int) -> dict:
    section = outline.config.scheduler
    generator = np.random.default_rng(seed)
    return explored(outline.space, outline.base, params, section, generator)


def test_numbers_change_by_a_factor_and_what_follows_from_them_follows(tmp_path) -> None:
    outline = outline_of(tmp_path, resample=0)
    params = {"_growth": 2, "schedule.lr": 5e-3, "schedule.batch": 8}
    found = [changed(outline, params, seed) for seed in range(20)]
    assert {each["schedule.lr"] for each in found} == {4e-3, 6e-3}
    assert {(each["_growth"], each["schedule.batch"]) for each in found} == {(2, 8)}
    edge = changed(outline, {**params, "schedule.lr": 1e-2}, 0)
    assert edge["schedule.lr"] in (8e-3, 1e-2)
    drawn = [changed(outline_of(tmp_path, resample=1), params, seed) for seed in range(20)]
    assert len({each["schedule.lr"] for each in drawn}) == 20
    assert all(each["schedule.batch"] == 4 * each["_growth"] for each in drawn)


def test_a_takeover_is_a_fork_whose_config_says_all(tmp_path) -> None:
    outline = outline_of(tmp_path)
    donor = outline.trials[1]
    params = {"_growth": 1, "schedule.lr": 2e-3, "schedule.batch": 4}
    taken = outline.take_over(donor.name, 10 * STEP, params)
    branch = outline.branches[taken.name]
    assert branch.parent == donor.name
    assert branch.fork == donor.training.schedule.reaching(10 * STEP)
    assert taken.training.shared_steps(donor.training) == branch.fork
    first, after = branch.fork, taken.training.schedule.step(branch.fork)
    assert after.lr == 2e-3
    assert after.batch_size == 4
    again = outline.take_over(taken.name, 20 * STEP, {**params, "schedule.lr": 3e-3})
    assert [past.until for past in again.config.schedule.history] == [
        taken.training.tokens_after(first),
        taken.training.tokens_after(taken.training.schedule.reaching(20 * STEP)),
    ]
    assert again.training.shared_steps(donor.training) == first


def test_a_restarted_sweep_knows_its_takeovers(tmp_path) -> None:
    outline = outline_of(tmp_path)
    state = outline.state()
    params = {"_growth": 1, "schedule.lr": 2e-3, "schedule.batch": 4}
    taken = outline.take_over("t001", 10 * STEP, params)
    outline.add(state, [taken])
    state.trials[-1].takeover = Takeover(donor="t001", loser="t000", at=10 * STEP)
    outline.folder.mkdir(parents=True)
    write_sweep(outline.folder, state)

    again = outline_of(tmp_path)
    read: SweepState = again.state()
    assert read == state
    assert again.trials[-1].config == taken.config
    assert again.branches == outline.branches
    # What the driver knows is sent to where the sweep is conducted, and there read once more.
    sent = pickle.loads(pickle.dumps(again))
    sent.open()
    assert sent.state() == state
    assert sent.trials == again.trials
    assert sent.take_over("t002", 20 * STEP, params).name == "t004-again"


def test_only_the_schedule_can_change_on_the_way(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"space.py:\d+: optimizer.weight_decay: .*pbt"):
        outline_of(tmp_path, '\n"optimizer.weight_decay": tune.uniform(0, 1),\n')
