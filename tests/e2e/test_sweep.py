"""Sweeps on real Ray: every trial equals the same run alone, and a sweep survives."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import plain_runs
import pyarrow.parquet as pq
import pytest
import ray
from command import copy_of_manta
from tiny_config import STEP, run_config, write_yaml

from manta.config import RunConfig, load
from manta.config.sweep import load_sweep
from manta.elastic.checks.preflight import check
from manta.record.sweep_asking import ask_sweep
from manta.record.sweep_request import new_request
from manta.record.sweep_state import SweepState, SweepTrial, read_sweep
from manta.record.verify_run import verify
from manta.state.checkpoint_files import name_of
from manta.storage.run_folder import STATE, SWEEP
from manta.tune.run_sweep import sweep
from manta.tune.sweep_plan import Outline

# A fan of decays for each of two batch schedules.
FAN = """
    "schedule.lr.decay": tune.grid_search(["50%", "25%"]),
    "schedule.batch": tune.grid_search(
        [7, {"name": "ramp", "from": 7, "to": 9, "start": "30%", "over": "10%"}]
    ),
"""
COLUMNS = ("step", "first_position", "last_position", "tokens", "digest", "skipped")


@pytest.fixture(scope="session")
def sweep_corpus(tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    texts = {"train": [[5, 9, 30] * 20, [17] * 60], "validation": [[11] * 30]}
    make_corpus(folder, texts, vocab_size=61)
    return folder


def write_sweep(folder: Path, corpus: Path, space: str, base: dict[str, Any], **keys: Any) -> Path:
    """The files of a sweep; returns the sweep's own."""
    config = run_config(
        folder / "runs",
        corpus,
        schedule={
            "horizon": 40 * STEP,
            "lr": {"name": "wsd", "peak": 1e-2, "warmup": STEP, "decay": "25%"},
        },
        eval={"every": 10 * STEP, "tokens": 160},
        wandb={"mode": "disabled"},
        scaling={"min": 1, "resources_per_worker": {"CPU": 1}},
        checkpoint={"snapshot_every": 0},  # no keeper of a node's memory for each trial
    )
    for name, section in base.items():
        config[name] = {**config.get(name, {}), **section} if isinstance(section, dict) else section
    write_yaml(folder / "run.yaml", config)
    text = f'"""Which?"""\n\nfrom ray import tune\n\nspace = {{{space}}}\n'
    (folder / "space.py").write_text(text)
    sections = {
        "sweep": {"name": "tiny", "storage": str(folder / "runs")},
        "base": "run.yaml",
        "space": "./space.py",
        **keys,
    }
    return write_yaml(folder / "sweep.yaml", sections)


def run_here(path: Path) -> SweepState:
    """Run a sweep in this process's Ray."""
    state, status = sweep(Outline(load_sweep(path)))
    assert status == "finished"
    return state


def rows_of(run_dir: Path) -> list[tuple[Any, ...]]:
    """All that training gives, to the bit."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    keys = ("step", "tokens", "lr", "batch_size", "loss", "grad_norm", "val_loss")
    return [tuple(row.get(key) for key in keys) for row in map(json.loads, lines)]


def ledger_of(run_dir: Path) -> list[list[Any]]:
    rows = pq.read_table(run_dir / "ledger.parquet").to_pylist()
    return [[row[column] for column in COLUMNS] for row in rows]


def alone(trial_dir: Path, storage: Path) -> Path:
    """The same config, trained from the start by itself, without Ray; returns the run's folder."""
    config = load(trial_dir / "config.yaml", RunConfig)
    run = config.run.model_copy(update={"storage": str(storage)})
    checked = check(config.model_copy(update={"run": run, "faults": []}))
    rows = [row for row in plain_runs.train(checked, 1) if {"loss", "val_loss"} & row.keys()]
    history = "".join(json.dumps(row) + "\n" for row in rows)
    (checked.run_dir / "metrics.jsonl").write_text(history)
    return checked.run_dir


def steps_trained(state: SweepState, folder: Path) -> int:
    """Tokens that the trials' own records say they trained, each from where its groups began."""
    total = 0
    for trial in state.trials:
        record = json.loads((folder / trial.name / "run.json").read_text())
        for group in record["groups"]:
            total += group["last_tokens"] - group["tokens"]
    return total


def test_each_trial_equals_the_same_run_alone(
    tmp_path: Path, sweep_corpus: Path, ray_local: None
) -> None:
    kept = {"checkpoint": {"snapshot_every": None}}
    path = write_sweep(tmp_path, sweep_corpus, FAN, kept, concurrent=2)
    state = run_here(path)
    folder = tmp_path / "runs" / "tiny"
    assert {trial.status for trial in state.trials} == {"finished"}
    assert sum(trial.parent is None for trial in state.trials) == 1
    assert state.tokens.trained == state.tokens.shared < state.tokens.apart
    assert steps_trained(state, folder) == state.tokens.trained, "each stage is trained once"
    for trial in state.trials:
        assert verify(folder / trial.name).lines()
        reference = alone(folder / trial.name, tmp_path / "alone")
        assert rows_of(folder / trial.name) == rows_of(reference), trial.name
        assert ledger_of(folder / trial.name) == ledger_of(reference), trial.name
        record = json.loads((folder / trial.name / "run.json").read_text())
        assert record["status"] == "finished"
        assert record["totals"]["steps"] == record["total_steps"]
    # What was kept for forks is gone.
    for trial in state.trials:
        if trial.parent is not None:
            kept = folder / trial.parent / "checkpoints" / name_of(trial.fork_step)
            assert not kept.exists()
    # The same command again has nothing to do.
    again = run_here(path)
    assert again == state


def test_a_trial_that_diverges_or_breaks_does_not_end_the_sweep(
    tmp_path: Path, sweep_corpus: Path, ray_local: None
) -> None:
    # No learning rate at which weights stay finite; and, in another trial, no way to start.
    space = """
    "schedule.lr.peak": tune.grid_search([1e-3, 1e38]),
    "corpus": tune.grid_search([CORPUS, CORPUS + "-gone"]),
    """.replace("CORPUS", repr(str(sweep_corpus)))
    base = {"schedule": {"horizon": 12 * STEP}}
    state = run_here(write_sweep(tmp_path, sweep_corpus, space, base, concurrent=1))
    statuses = [trial.status for trial in sorted(state.trials, key=lambda t: t.name)]
    assert statuses == ["finished", "failed", "diverged", "failed"]
    assert "-gone" in state.trials[1].reason
    assert "the update was not applied" in state.trials[2].reason


def test_two_trials_that_are_one_training_train_it_once(
    tmp_path: Path, sweep_corpus: Path, ray_local: None
) -> None:
    space = '"schedule.horizon": tune.grid_search([12 * 112, 24 * 112, 12 * 112]),'
    base = {"schedule": {"lr": 1e-3}, "eval": {"every": 9 * STEP, "tokens": 160}}
    state = run_here(write_sweep(tmp_path, sweep_corpus, space, base))
    folder = tmp_path / "runs" / "tiny"
    assert {trial.status for trial in state.trials} == {"finished"}
    assert state.tokens.trained == 24 * STEP
    rows = {trial.name: rows_of(folder / trial.name) for trial in state.trials}
    twice = next(name for name in rows if name.endswith("again"))
    assert rows[twice] == rows["t000"] == rows_of(alone(folder / "t000", tmp_path / "alone"))
    assert state.trials[0].value == state.trials[2].value is not None


def lingering(*steps: int) -> list[dict[str, Any]]:
    """Faults that give a trial time to hear of a verdict that came just before these steps.

    Steps here take no time at all: without them it could be at its end by then.
    """
    return [{"kind": "slow", "step": step, "seconds": 4, "attempt": None} for step in steps]


def kill_and_go_on(path: Path, middle: Callable[[SweepState], bool]) -> SweepState:
    """Kill the command of a sweep once it stands so (SIGKILL); then go on here, to its end."""
    folder = path.parent / "runs" / "tiny"
    address = ray.get_runtime_context().gcs_address
    driver = copy_of_manta("sweep", str(path), address=address)
    while not ((folder / SWEEP).exists() and middle(read_sweep(folder))):
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    there = read_sweep(folder)
    assert there.status == "running"
    assert {trial.status for trial in there.trials} & {"waiting", "running", "paused"}
    return run_here(path)


def outcome(state: SweepState, folder: Path) -> list[tuple[Any, ...]]:
    """Who was compared how, who took over from whom, and the curves of those that finished.

    Without what a trial scored after it was to pause: how far it comes before it hears of it
    is chance.
    """
    found: list[tuple[Any, ...]] = []
    for trial in state.trials:
        held = min((r for r in trial.scores if r not in trial.passed), default=None)
        scores = {r: s for r, s in trial.scores.items() if held is None or r <= held}
        rows = rows_of(folder / trial.name) if trial.status == "finished" else None
        found.append((trial.name, trial.status, scores, trial.passed, trial.takeover, rows))
    return found


def test_halving_trains_nothing_twice_and_a_killed_driver_changes_nothing(
    tmp_path: Path, sweep_corpus: Path, ray_local: None
) -> None:
    space = '"schedule.lr.peak": tune.grid_search([1e-5, 1e-4, 1e-3, 1e-2]),'
    scheduler = {"type": "halving", "rungs": ["25%", "60%"], "factor": 2}
    base = {
        "checkpoint": {"every": 5 * STEP},
        "eval": {"every": 100 * STEP, "tokens": 160},
        "faults": lingering(12, 26),
    }
    path = write_sweep(tmp_path, sweep_corpus, space, base, scheduler=scheduler)
    state = run_here(path)
    statuses = [trial.status for trial in state.trials]
    assert "finished" in statuses
    assert "paused" in statuses
    first = 10 * STEP
    assert all(first in trial.scores for trial in state.trials)
    best = sorted(state.trials, key=lambda trial: trial.scores[first])[:2]
    assert all(first in trial.passed for trial in best), "the best half goes on"
    folder = tmp_path / "runs" / "tiny"
    assert steps_trained(state, folder) == state.tokens.trained
    for trial in state.trials:
        rows = rows_of(folder / trial.name)
        steps = [row[0] for row in rows if row[4] is not None]
        assert steps == list(range(1, len(steps) + 1))
    (tmp_path / "again").mkdir()
    path = write_sweep(tmp_path / "again", sweep_corpus, space, base, scheduler=scheduler)
    again = kill_and_go_on(path, lambda there: sum(bool(t.scores) for t in there.trials) == 2)
    assert outcome(again, tmp_path / "again" / "runs" / "tiny") == outcome(state, folder)


def until(holds: Callable[[], bool]) -> None:
    """Wait for what another process does, for two minutes at most."""
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def change_on_the_way(folder: Path, go: Callable[[str], None]) -> list[str]:
    """Stop t001 and add t002 while both trials stand; returns the answers.

    t001 stands until t002 is at its end, and has long heard of its stop by then.
    """

    def trials() -> dict[str, SweepTrial]:
        return {trial.name: trial for trial in read_sweep(folder).trials}

    both = [folder / name / "checkpoints" / name_of(10) / STATE for name in ("t000", "t001")]
    until(lambda: all(state.exists() for state in both))
    stop = ask_sweep(folder, new_request("stop", trials=["t001"]))
    add = ask_sweep(folder, new_request("add", params={"schedule.lr.decay": "50%"}, like="t000"))
    go("t000")
    until(lambda: (folder / "t002").exists())
    go("t002")
    until(lambda: trials()["t002"].status == "finished")
    go("t001")
    return [answer.answer for answer in (stop, add) if answer is not None]


def test_a_trial_is_stopped_and_one_is_added_on_the_way_and_the_others_do_not_notice(
    tmp_path: Path, sweep_corpus: Path, ray_local: None
) -> None:
    space = '"schedule.lr.peak": tune.grid_search([1e-2, 1e-3]),'
    base = {
        "checkpoint": {"every": 10 * STEP},
        "faults": [{"kind": "hold", "step": 20, "until": "go", "attempt": None}],
    }
    path = write_sweep(tmp_path, sweep_corpus, space, base, concurrent=2)
    folder = tmp_path / "runs" / "tiny"

    def go(name: str) -> None:
        if (folder / name).exists():
            (folder / name / "go").touch()

    def change() -> list[str]:
        try:
            return change_on_the_way(folder, go)
        finally:  # whatever has failed, the sweep must end
            for name in ("t000", "t001", "t002"):
                go(name)

    with ThreadPoolExecutor(1) as beside:
        changing = beside.submit(change)
        state = run_here(path)
        answers = changing.result()
    assert answers == [
        "t001 saves a checkpoint and stops",
        f"t002 trains from t000 at {10 * STEP / 1000:.2f}K tokens: peak=0.01 decay=50%",
    ]
    whole, stopped, added = state.trials
    assert [trial.status for trial in state.trials] == ["finished", "stopped", "finished"]
    assert stopped.reason.startswith("stopped by ")
    assert 10 * STEP < stopped.tokens < 40 * STEP
    assert (added.parent, added.fork_step) == ("t000", 10)
    assert [request.added for request in state.requests] == [[], ["t002"]]
    assert steps_trained(state, folder) == state.tokens.trained
    for trial in state.trials:
        assert verify(folder / trial.name).lines()
        reference = alone(folder / trial.name, tmp_path / "alone")
        rows, ledger = rows_of(folder / trial.name), ledger_of(folder / trial.name)
        if trial is stopped:
            assert rows == rows_of(reference)[: len(rows)]
            assert ledger == ledger_of(reference)[: len(ledger)]
        else:
            assert rows == rows_of(reference), trial.name
            assert ledger == ledger_of(reference), trial.name
    assert whole.value != added.value
    # The same command again knows the trial that was added, and has nothing to do.
    assert run_here(path) == state


def test_a_searcher_that_learns_goes_on_from_what_was_trained(
    tmp_path: Path, sweep_corpus: Path, ray_local: None
) -> None:
    space = '"schedule.lr.decay": tune.choice(["50%", "25%", "12.5%"]),'
    search = {"type": "optuna", "trials": 3, "seed": 1}
    base = {"schedule": {"horizon": 24 * STEP, "lr": {"name": "wsd", "peak": 1e-2, "decay": "25%"}}}
    state = run_here(write_sweep(tmp_path, sweep_corpus, space, base, search=search))
    assert len(state.trials) == 3
    assert {trial.status for trial in state.trials} == {"finished"}
    assert [number for number, _ in state.told] == [0, 1, 2]
    assert all(value is not None for _, value in state.told)
    assert [trial.parent for trial in state.trials].count(None) == 1
    folder = tmp_path / "runs" / "tiny"
    assert steps_trained(state, folder) == state.tokens.trained < state.tokens.apart
    deepest = max(state.trials, key=lambda trial: trial.fork_step)
    reference = alone(folder / deepest.name, tmp_path / "alone")
    assert rows_of(folder / deepest.name) == rows_of(reference)


def test_what_a_trial_gives_back_goes_to_one_that_runs(
    tmp_path: Path, sweep_corpus: Path, ray_local: None
) -> None:
    """Two workers, two trials that may have both: one each, then two for the one that is left."""
    space = '"schedule.horizon": tune.grid_search([20 * 112, 100 * 112]),'
    base = {
        "schedule": {"lr": {"name": "linear", "peak": 1e-3}},
        "eval": {"every": 1000 * STEP, "tokens": 160},
        "scaling": {"settle": 0, "spares": 1, "throughput": 100},
        # Slow until it has grown, so that there is something left to grow for.
        "faults": [{"kind": "slow", "seconds": 0.2, "attempt": 1}],
    }
    workers = {"min": 1, "max": 2}
    path = write_sweep(tmp_path, sweep_corpus, space, base, workers=workers, concurrent=2)
    state = run_here(path)
    assert {trial.status for trial in state.trials} == {"finished"}
    folder = tmp_path / "runs" / "tiny"
    sizes = {
        trial.name: [
            g["world_size"]
            for g in json.loads((folder / trial.name / "run.json").read_text())["groups"]
        ]
        for trial in state.trials
    }
    assert sizes == {"t000": [1], "t001": [1, 2]}
    assert verify(folder / "t001").lines()
    assert steps_trained(state, folder) == state.tokens.trained


def test_in_a_population_the_worst_go_on_from_the_best_also_after_a_kill(
    tmp_path: Path, sweep_corpus: Path, ray_local: None
) -> None:
    space = '"schedule.lr": tune.loguniform(1e-5, 1e-2),'
    base = {
        "eval": {"every": 100 * STEP, "tokens": 160},
        "schedule": {"horizon": 24 * STEP, "lr": 1e-3},
    }
    keys = {
        "search": {"type": "random", "trials": 3},
        "scheduler": {"type": "pbt", "interval": "50%"},
    }
    path = write_sweep(tmp_path, sweep_corpus, space, base, **keys, concurrent=1)
    state = run_here(path)
    folder = tmp_path / "runs" / "tiny"
    takeovers = [trial for trial in state.trials if trial.takeover is not None]
    assert [t.takeover.at for t in takeovers if t.takeover] == [12 * STEP]
    for trial in takeovers:
        assert trial.takeover is not None
        loser = next(t for t in state.trials if t.name == trial.takeover.loser)
        donor = next(t for t in state.trials if t.name == trial.takeover.donor)
        mark = trial.takeover.at
        assert donor.scores[mark] < loser.scores[mark]
        assert (loser.status, loser.reason) == ("stopped", f"replaced by {trial.name}")
        assert trial.parent == donor.name
        assert "lr" in load(folder / trial.name / "config.yaml", RunConfig).schedule.model_dump()
    losers = {trial.takeover.loser for trial in takeovers if trial.takeover}
    assert len(state.trials) - len(losers) == 3
    assert all(t.status == "finished" for t in state.trials if t.name not in losers)
    assert steps_trained(state, folder) == state.tokens.trained
    last = max(takeovers, key=lambda trial: trial.fork_tokens)
    assert verify(folder / last.name).lines()
    assert rows_of(folder / last.name) == rows_of(alone(folder / last.name, tmp_path / "alone"))
    # Two at a time, and the driver killed in between: the same, to the bit.
    (tmp_path / "again").mkdir()
    path = write_sweep(tmp_path / "again", sweep_corpus, space, base, **keys, concurrent=2)
    again = kill_and_go_on(path, lambda there: any(t.takeover for t in there.trials))
    assert outcome(again, tmp_path / "again" / "runs" / "tiny") == outcome(state, folder)
