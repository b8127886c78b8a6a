"""Stop and add, as requests in a sweep's folder: done, refused, and known after a restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from manta.cli import app
from manta.record.sweep_request import new_request, request_ids, write_request
from manta.record.sweep_standing import sweep_standing
from manta.record.sweep_state import SweepState, read_sweep, write_sweep
from manta.state.checkpoint_files import Inventory, TrainState, name_of
from manta.tune.changes import Changes
from manta.tune.forks import Forks
from manta.tune.halving import Halving
from manta.tune.sweep_plan import Outline

SPACE = 'space = {"schedule.lr.decay": tune.grid_search(["50%", "20%"])}'
ONE = 'space = {"schedule.lr.decay": tune.grid_search(["20%"])}'
PEAKS = 'space = {"schedule.lr.peak": tune.loguniform(1e-3, 1e-1)}'


class Standing:
    """A sweep that stands still: what its coordinator has, without Ray."""

    def __init__(self, config):
        self.outline = Outline(config)
        self.state: SweepState = self.outline.state()
        self.place = Path(self.outline.folder)
        self.forks = Forks(self.place)
        self.progress = Halving(self.state, self.forks.lay, self.outline.rungs)
        self.changes = Changes(self.outline, self.state, self.progress, self.forks)
        self.save()

    def save(self):
        self.place.mkdir(parents=True, exist_ok=True)
        write_sweep(self.place, self.state)

    def ask(self, action, **what):
        write_request(self.place, new_request(action, **what))
        (taken,) = self.changes.take(now=True)
        self.save()
        self.changes.saved_as([taken], 1)
        self.changes.tidy(1)
        return taken

    def checkpoint(self, name, step):
        folder = self.place / name / "checkpoints" / name_of(step)
        folder.mkdir(parents=True)
        Inventory(TrainState(step=step), {}).write(folder, 1)


def test_a_request_is_taken_once_and_its_file_stays_until_the_answer_is_stored(sweep):
    standing = Standing(sweep(SPACE).config)
    write_request(standing.place, new_request("stop", trials=["t001"]))
    (taken,) = standing.changes.take(now=True)
    assert (taken.refused, taken.answer) == (False, "t001 is stopped")
    assert standing.state.requests == [taken]
    assert standing.changes.take(now=True) == []
    standing.changes.saved_as([taken], 7)
    standing.changes.tidy(6)
    assert request_ids(standing.place) == [taken.id]
    standing.save()
    # Killed before the file was removed: the next driver knows that it was taken.
    again = Standing(sweep(SPACE).config)
    assert again.changes.take(now=True) == []
    again.changes.tidy(0)
    assert request_ids(again.place) == []
    (_, stopped) = again.state.trials
    assert (stopped.status, stopped.reason) == ("stopped", f"stopped by {taken.by} at {taken.at}")


def test_in_a_store_requests_are_looked_for_now_and_then(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "cache"))
    sections = {"sweep": {"name": "try", "storage": f"file://{tmp_path}/store"}}
    outline = Outline(sweep(SPACE, **sections).config)
    state, forks, now = outline.state(), Forks(outline.place), [0.0]
    progress = Halving(state, forks.lay, outline.rungs)
    changes = Changes(outline, state, progress, forks, clock=lambda: now[0])
    assert changes.take() == []
    request = new_request("stop", trials=["t000"])
    write_request(outline.place, request)
    now[0] = 1.0
    assert changes.take() == []
    now[0] = 6.0
    (taken,) = changes.take()
    assert taken.answer.startswith("t000 stops at 500K tokens, where t001 continues from it")
    changes.saved_as([taken], 2)
    changes.tidy(1)
    assert request_ids(outline.place) == [request.id], "the answer has yet to arrive in the store"
    changes.tidy(2)
    assert request_ids(outline.place) == []


def test_a_request_that_was_changed_does_nothing(sweep):
    standing = Standing(sweep(SPACE).config)
    request = new_request("stop", trials=["t000"])
    write_request(standing.place, request)
    path = standing.place / ".requests" / f"{request.id}.json"
    path.write_text(path.read_text().replace("t000", "t001"))
    (taken,) = standing.changes.take(now=True)
    assert taken.refused
    assert "changed after it was written" in taken.answer
    assert {trial.status for trial in standing.state.trials} == {"waiting"}


def test_an_added_trial_shares_what_will_be_trained_and_is_the_same_after_a_restart(sweep):
    standing = Standing(sweep(SPACE).config)
    taken = standing.ask("add", params={"schedule.lr.decay": "10%"})
    assert taken.added == ["t002"]
    added = standing.state.trials[-1]
    # The trial with the 20 % decay has yet to begin: it saves where its decay does.
    (parent,) = [t for t in standing.state.trials if t.params["schedule.lr.decay"] == "20%"]
    assert added.parent == parent.name
    assert 799_000 < added.fork_tokens <= 800_128
    assert added.fork_step in standing.outline.saves(parent.name)
    assert added.fork_tokens in standing.outline.leg(parent.name).config.checkpoint.at
    assert taken.answer.startswith(f"t002 trains from {parent.name} at ")
    again = Standing(sweep(SPACE).config)
    assert again.state == standing.state
    assert again.outline["t002"].training == standing.outline["t002"].training
    assert [stage.trials for stage in again.outline.forest] == [("t000", "t001", "t002")]
    # A refused one takes no number from those that follow.
    refused = again.ask("add", params={"schedule.lr.decay": "10%"})
    assert (refused.refused, refused.answer[:24]) == (True, "t002 trains just that al")
    assert again.ask("add", params={"schedule.lr.decay": "5%"}).added == ["t003"]


def test_an_added_trial_continues_from_a_checkpoint_that_is_there(sweep):
    standing = Standing(sweep(ONE).config)
    (trunk,) = standing.state.trials
    standing.progress.start(trunk.name)
    trunk.tokens = 900_000
    standing.checkpoint(trunk.name, 3000)
    standing.checkpoint(trunk.name, 7000)  # in the decay of the 20 %
    taken = standing.ask("add", params={"schedule.lr.decay": "30%"})
    added = standing.progress[taken.added[0]]
    assert (added.parent, added.fork_step) == (trunk.name, 3000)
    other = standing.ask("add", params={"schedule.lr.peak": 0.05})
    assert standing.progress[other.added[0]].parent is None


def test_with_halving_nothing_forks_beyond_a_rung_that_is_not_decided(sweep):
    scheduler = {"type": "halving", "rungs": ["25%"]}
    standing = Standing(sweep(ONE, scheduler=scheduler).config)
    (trunk,) = standing.state.trials
    standing.progress.start(trunk.name)
    standing.checkpoint(trunk.name, 1000)
    standing.checkpoint(trunk.name, 3000)
    taken = standing.ask("add", params={"schedule.lr.decay": "30%"})
    assert standing.progress[taken.added[0]].fork_step == 1000
    trunk.passed.append(250_000)
    taken = standing.ask("add", params={"schedule.lr.decay": "31%"})
    assert standing.progress[taken.added[0]].fork_step == 3000


def test_a_fork_has_the_schedule_that_was_in_force_in_its_history(sweep):
    standing = Standing(sweep(ONE).config)
    standing.progress.start("t000")
    standing.checkpoint("t000", 1000)
    standing.checkpoint("t000", 3000)
    newest = standing.ask("fork", like="t000", params={"schedule.lr.peak": 0.05})
    older = standing.ask("fork", like="t000", step=1000, params={"schedule.horizon": 2_000_000})
    added = [standing.progress[one.added[0]] for one in (newest, older)]
    assert [(one.parent, one.fork_step) for one in added] == [("t000", 3000), ("t000", 1000)]
    was = standing.outline["t000"].training.schedule
    forked, longer = (standing.outline[one.name].training.schedule for one in added)
    assert [forked.step(k) for k in (0, 2999)] == [was.step(k) for k in (0, 2999)]
    assert forked.step(3000).lr == pytest.approx(was.step(3000).lr / 2)
    assert longer.step(999) == was.step(999)
    assert longer.horizon == 2_000_000
    again = Standing(sweep(ONE).config)
    standing.progress["t000"].status = "waiting"
    assert again.state == standing.state
    for one in added:
        assert again.outline[one.name].training == standing.outline[one.name].training


@pytest.mark.parametrize(
    ("step", "params", "message"),
    [
        (
            2000,
            {"schedule.lr.peak": 0.05},
            "no checkpoint of this step; there are steps 1000, 7813",
        ),
        (1000, {"train.clip_norm": 0.5}, "only keys of the schedule can change on the way"),
        (7813, {"schedule.lr.peak": 0.05}, "nothing is left to train"),
    ],
)
def test_a_fork_that_can_not_be_is_refused(sweep, step, params, message):
    standing = Standing(sweep(ONE).config)
    standing.checkpoint("t000", 1000)
    standing.checkpoint("t000", 7813)
    refused = standing.ask("fork", like="t000", step=step, params=params)
    assert refused.refused
    assert message in refused.answer
    assert [trial.name for trial in standing.state.trials] == ["t000"]


def test_parameters_of_another_trial_and_choices_that_others_follow_from(sweep):
    space = """
    space = {
        "_factor": tune.grid_search([1, 2]),
        "schedule.lr.peak": tune.sample_from(lambda c: 0.1 * c["_factor"]),
        "schedule.lr.decay": tune.choice(["10%", "20%"]),
    }
    seeds = [1, 2]
    """
    standing = Standing(sweep(space, search={"type": "grid", "trials": 1}).config)
    first = standing.state.trials[0]
    taken = standing.ask("add", params={"_factor": 3}, like=first.name)
    added = [standing.progress[name] for name in taken.added]
    assert [(one.name, one.seed) for one in added] == [("t002-s1", 1), ("t002-s2", 2)]
    assert added[0].params["schedule.lr.peak"] == pytest.approx(0.3)
    assert added[0].params["schedule.lr.decay"] == first.params["schedule.lr.decay"]
    refused = standing.ask("add", params={"schedule.lr.decay": "15%"})
    assert refused.refused
    assert "give _factor=VALUE too" in refused.answer


def test_with_a_searcher_that_learns_it_shares_the_steps_at_which_trials_save(sweep):
    search = {"type": "optuna", "trials": 4, "seed": 1}
    standing = Standing(sweep(PEAKS, search=search).config)
    first = standing.ask("add", params={"schedule.lr.peak": 0.05})
    second = standing.ask("add", params={"schedule.lr.peak": 0.05, "schedule.lr.decay": "10%"})
    added = standing.progress[second.added[0]]
    assert added.parent == first.added[0]
    assert added.fork_step in standing.outline.saves(str(added.parent))
    again = Standing(sweep(PEAKS, search=search).config)
    assert again.state == standing.state


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep-stop", "t009"], "no trial 't009': there are t000, t001"),
        (["sweep-stop", "t000"], "t000 has ended: it is finished"),
        (["sweep-add", "--like", "t009"], "no trial 't009'"),
        (["sweep-add", "run.name=mine"], "the sweep names its trials"),
        (["sweep-add", "schedule.lr.peek=1"], "unknown key 'schedule.lr.peek'"),
        (["sweep-add", "schedule.lr.peak"], "write an override as dotted.key=value"),
    ],
)
def test_the_commands_refuse_before_they_ask(sweep, arguments, message):
    standing = Standing(sweep(SPACE).config)
    standing.state.trials[0].status = "finished"
    standing.save()
    command, *rest = arguments
    said = CliRunner().invoke(app, [command, str(standing.place), *rest])
    assert said.exit_code == 1
    assert message in " ".join(str(said.exception).split())
    assert request_ids(standing.place) == []


def test_a_population_can_not_be_changed(sweep):
    space = 'space = {"schedule.lr": tune.loguniform(1e-3, 1e-1)}'
    sections = {"search": {"type": "random", "trials": 3}, "scheduler": {"type": "pbt"}}
    standing = Standing(sweep(space, **sections).config)
    said = CliRunner().invoke(app, ["sweep-stop", str(standing.place), "t000"])
    assert "population-based training" in str(said.exception)


def test_a_sweep_that_does_not_run_takes_the_request_when_it_goes_on(sweep):
    standing = Standing(sweep(SPACE).config)
    said = CliRunner().invoke(app, ["sweep-add", str(standing.place), "schedule.lr.decay=10%"])
    assert said.exit_code == 0, said.exception
    assert "takes the request when it goes on" in said.output
    assert sweep_standing(standing.place).requests_waiting == 1
    again = Standing(sweep(SPACE).config)
    (taken,) = again.changes.take(now=True)
    assert (taken.action, taken.added) == ("add", ["t002"])
    again.save()
    stored = json.loads((again.place / "sweep.json").read_text())["requests"]
    assert stored[0]["params"] == {"schedule.lr.decay": "10%"}
    assert read_sweep(again.place).requests == [taken]
    assert sweep_standing(again.place).requests_waiting == 0
