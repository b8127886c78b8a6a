"""Runs and sweeps in an object store: as on a disk, to the bit, on whatever node they go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_runs
import pytest
from command import copy_of_manta
from copied import Copied
from s3_server import S3Server, upload
from tiny_config import STEP, run_config, write_yaml

from manta.config import RunConfig, load
from manta.config.errors import RunError
from manta.elastic.checks.preflight import check
from manta.record.run_state import read_state
from manta.record.sweep_asking import ask_sweep
from manta.record.sweep_request import new_request, request_ids
from manta.record.sweep_state import read_sweep
from manta.record.verify_run import verify
from manta.show.compare.comparing import compare_places
from manta.state.checkpoint_files import whole
from manta.storage.exclusive import RunHold
from manta.storage.place import place_of, tree
from manta.storage.store import StorePath
from manta.stream.ledger import Ledger
from manta.train.export import generate

DEADLINE = 300.0
STEPS = 60


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this process, and those that it starts, one of a node with a disk of its own."""

    def become(name: str) -> None:
        monkeypatch.setenv("MANTA_CACHE", str(tmp_path / name))

    become("node-1")
    return become


def place_in(s3: S3Server, name: str) -> StorePath:
    place = place_of(s3.url(name))
    assert isinstance(place, StorePath)
    return place


def rows_of(run: StorePath) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return []


def losses(run: StorePath) -> dict[int, float]:
    logged = [row for row in rows_of(run) if "loss" in row]
    assert [row["step"] for row in logged] == list(range(1, len(logged) + 1))
    return {row["step"]: row["loss"] for row in logged}


def until(process: Copied, happened: Callable[[], bool]) -> None:
    """Return once it has happened; fail if the process ends before."""
    deadline = time.time() + DEADLINE
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.time() < deadline, "it did not happen"
        time.sleep(0.1)


def test_a_killed_driver_goes_on_on_another_node(
    s3: S3Server, tmp_path: Path, corpus: Path, node: Callable[[str], None]
) -> None:
    upload(corpus, place_in(s3, "corpus"))
    sections: dict[str, Any] = {
        "schedule": {"horizon": STEPS * STEP},
        "checkpoint": {"every": 10 * STEP, "snapshot_every": 0},
        "wandb": {"mode": "disabled"},
    }
    local = run_config(tmp_path / "runs", corpus, **sections)
    reference = check(RunConfig.model_validate(local))
    rows = plain_runs.train(reference, 2)

    # The first driver's workers stand until it is killed.
    hold = {"kind": "hold", "step": 25, "attempt": 1, "until": str(tmp_path / "never")}
    config = {**local, "corpus": s3.url("corpus"), "faults": [hold]}
    config["run"] = {**config["run"], "storage": s3.url("runs")}
    path = write_yaml(tmp_path / "run.yaml", config)
    run = place_in(s3, "runs") / "tiny"
    first = copy_of_manta("train", str(path))
    until(first, lambda: len(rows_of(run)) > 0 and len(whole(run / "checkpoints")) >= 2)
    node("node-2")
    with pytest.raises(RunError, match=f"another driver is at work here .process {first.pid} on"):
        RunHold(run)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    shutil.rmtree(tmp_path / "node-1")  # its disk is gone with it

    second = copy_of_manta("train", str(path))
    output = second.communicate(timeout=300)[0]
    assert second.returncode == 0, output
    state = read_state(run)
    assert (state.status, state.drivers) == ("finished", 2)
    assert state.groups[1].source == "checkpoint"
    assert 0 < state.groups[1].step < STEPS
    assert losses(run) == plain_runs.losses(rows)  # to the bit
    assert (
        Ledger(run / "ledger.parquet").digest()
        == Ledger(reference.run_dir / "ledger.parquet").digest()
    )

    node("node-3")
    assert verify(run).lines()
    assert str(run / "report.html") in output
    assert "tiny" in (run / "report.html").read_text()
    assert generate(run, "document", tokens=4, temperature=0.0, seed=0).startswith("document")
    assert not [name for name in tree(run) if name.endswith(".tmp")]
    assert "nothing" not in (run / "config.yaml").read_text(), "no credentials in records"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "nothing"


SPACE = '''"""Which decay?"""

from ray import tune

space = {"schedule.lr.decay": tune.grid_search(["50%", "25%"])}
'''


def test_a_sweep_in_a_store(
    s3: S3Server, tmp_path: Path, corpus: Path, node: Callable[[str], None]
) -> None:
    lr = {"name": "wsd", "peak": 1e-2, "warmup": STEP, "decay": "25%"}
    config = run_config(
        tmp_path / "unused",
        corpus,
        schedule={"horizon": 40 * STEP, "lr": lr},
        eval={"every": 10 * STEP, "tokens": 160},
        wandb={"mode": "disabled"},
        scaling={"min": 1, "resources_per_worker": {"CPU": 1}},
    )
    write_yaml(tmp_path / "run.yaml", config)
    (tmp_path / "space.py").write_text(SPACE)
    sections = {
        "sweep": {"name": "tiny", "storage": s3.url("sweeps")},
        "base": "run.yaml",
        "space": "./space.py",
    }
    path = write_yaml(tmp_path / "sweep.yaml", sections)
    first = copy_of_manta("sweep", str(path))
    output = first.communicate(timeout=300)[0]
    assert first.returncode == 0, output
    place = place_in(s3, "sweeps") / "tiny"
    state = read_sweep(place)
    assert {trial.status for trial in state.trials} == {"finished"}
    [child] = [trial for trial in state.trials if trial.parent is not None]
    for trial in state.trials:
        assert verify(place / trial.name).lines()

    def alone(name: str) -> Any:
        """Losses of a trial's config, trained from the start."""
        config = load(place / name / "config.yaml", RunConfig)
        run = config.run.model_copy(update={"storage": str(tmp_path / "alone")})
        checked = check(config.model_copy(update={"run": run}))
        return plain_runs.losses(plain_runs.train(checked, 1))

    assert losses(place / child.name) == alone(child.name), "the fork"
    assert "<html" in (place / "compare.html").read_text()

    node("node-2")
    page = compare_places([str(place)], metric=None, output=tmp_path / "page.html", top=5)
    assert child.name in page.read_text()
    # Asked for while nothing runs, a trial is added once the sweep goes on; no other one trains.
    assert ask_sweep(place, new_request("add", params={"schedule.lr.decay": "10%"})) is None
    again = copy_of_manta("sweep", str(path))
    output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, output
    trained = [line.split()[1] for line in output.splitlines() if " trains from " in line]
    assert set(trained) == {"add", "t002"}
    added = read_sweep(place).trials[-1]
    assert (added.name, added.status) == ("t002", "finished")
    assert verify(place / "t002").lines()
    assert losses(place / "t002") == alone("t002")
    assert request_ids(place) == []
