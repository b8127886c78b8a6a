"""A sweep's own run in W&B: read back from a server, and from its offline files."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_sweep import Made, plausible_loss, write_sweep

from manta.config.run import WandbSection
from manta.record.sweep_state import SweepState, read_sweep
from manta.record.sweep_state import write_sweep as save
from manta.show.wandb import sweep_run
from manta.show.wandb.sweep_run import show_sweep

WANDB = Path(sys.executable).with_name("wandb")
SECTION = WandbSection(project="p", group="g", tags=["sweep", "space:decay"])
HALF = 1_000_000_000
RAMP = {"name": "ramp", "from": 64, "to": 192, "start": "50%", "over": "30%", "multiple_of": 16}


def trials() -> list[Made]:
    """A root, a fork of it with a batch that is a structure, and one that never began."""
    return [
        Made("t000", "decay=10%", {"schedule.lr.decay": "10%", "schedule.batch": 64}, seed=1),
        Made(
            "t001",
            "decay=20%",
            {"schedule.lr.decay": "20%", "schedule.batch": RAMP},
            seed=1,
            parent="t000",
            fork_step=50,
            fork_tokens=HALF,
        ),
        Made(
            "t002",
            "decay=40%",
            {"schedule.lr.decay": "40%", "schedule.batch": 64},
            seed=2,
            status="waiting",
            until=0,
        ),
    ]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "runs" / "decay", trials(), plausible_loss)


def show(folder: Path, mode: str = "auto", **keys: Any) -> tuple[SweepState, list[str]]:
    """Show a sweep in W&B; returns what `sweep.json` says then, and what people heard."""
    said: list[str] = []
    show_sweep(folder, SECTION.model_copy(update={"mode": mode}), said.append, **keys)
    return read_sweep(folder), said


def end(folder: Path, status: Any) -> None:
    state = read_sweep(folder)
    state.status = status
    save(folder, state)


def id_of(state: SweepState) -> str:
    assert state.wandb is not None
    return state.wandb.id


def table_of(text: bytes | str) -> list[dict[str, Any]]:
    """A W&B table as rows."""
    found = json.loads(text)
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def check_table(rows: list[dict[str, Any]], folder: Path) -> None:
    """It says of each trial what it is and what became of it."""
    assert [row["name"] for row in rows] == ["t000", "t001", "t002"]
    assert [row["decay"] for row in rows] == ["10%", "20%", "40%"]
    assert [row["batch"] for row in rows] == ["64", json.dumps(RAMP), "64"]
    assert [row["status"] for row in rows] == ["finished", "finished", "waiting"]
    assert [row["parent"] for row in rows] == [None, "t000", None]
    assert [row["fork_tokens"] for row in rows] == [0, HALF, 0]
    assert [row["seed"] for row in rows] == [1, 1, 2]
    history = [json.loads(line) for line in (folder / "t001" / "metrics.jsonl").open()]
    values = [row["val_loss"] for row in history if "val_loss" in row]
    assert rows[1]["metric"] == values[-1]
    assert rows[1]["best_metric"] == min(values) <= values[-1]
    assert rows[1]["tokens"] == 2 * HALF
    assert rows[2]["metric"] is None


def test_a_server_has_the_table_the_tree_and_the_comparison(sweep: Path, wandb_server: Any) -> None:
    (sweep / "compare.html").write_text("<p>all compared</p>")
    state, said = show(sweep)
    name = id_of(state)
    assert state.wandb is not None
    assert state.wandb.mode == "online"
    assert said == [f"W&B: {state.wandb.url}"]
    run = wandb_server.runs[name]
    assert (run["displayName"], run["groupName"], run["jobType"]) == ("decay", "g", "sweep")
    assert run["tags"] == ["sweep", "space:decay"]
    assert wandb_server.config(name)["sweep"]["metric"] == "val_loss"

    summary = wandb_server.summary(name)
    uploaded = {
        key: wandb_server.files[f"{name}/{summary[key]['path']}"]
        for key in ("trials", "tree", "comparison")
    }
    check_table(table_of(uploaded["trials"]), sweep)
    assert wandb_server.artifacts == {f"run-{name}-trials": "COMMITTED"}
    assert b"t001  1.00B" in uploaded["tree"]
    assert uploaded["comparison"] == b"<p>all compared</p>"
    rows = table_of(uploaded["trials"])
    best = min(rows[:2], key=lambda row: row["metric"])
    assert (summary["best_name"], summary["best_metric"]) == (best["name"], best["metric"])
    assert (summary["trials_finished"], summary["trials_total"]) == (2, 3)
    assert summary["status"] == "finished"
    assert wandb_server.ended[name] == 0


def test_an_interrupted_sweep_says_so_and_is_the_same_run_when_it_goes_on(
    sweep: Path, wandb_server: Any
) -> None:
    end(sweep, "interrupted")
    first, _ = show(sweep)
    name = id_of(first)
    assert wandb_server.summary(name)["status"] == "interrupted"
    assert wandb_server.ended[name] == 1
    end(sweep, "finished")
    again, _ = show(sweep)
    assert id_of(again) == name
    assert wandb_server.opened == [name, name]
    assert [row["_step"] for row in wandb_server.history(name)] == [0, 1]
    assert wandb_server.summary(name)["status"] == "finished"
    assert wandb_server.ended[name] == 0


def inspect(folder: Path) -> list[dict[str, Any]]:
    """The records of an offline folder, by W&B's own reader."""
    command = [str(WANDB), "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_offline_files_have_all_of_it_and_can_be_uploaded(
    sweep: Path, request: pytest.FixtureRequest
) -> None:
    state, said = show(sweep, "offline")
    assert state.wandb is not None
    assert state.wandb.sync_command is not None
    assert said == [f"W&B: offline; upload with: {state.wandb.sync_command}"]
    show(sweep, "offline")
    (folder,) = sweep.glob("wandb/offline-run-*")
    records = inspect(folder)
    (run, *_) = (record["run"] for record in records if record["type"] == "run")
    assert run["run_id"] == state.wandb.id
    assert (run["run_group"], run["job_type"]) == ("g", "sweep")
    (history,) = (record["history"]["item"] for record in records if record["type"] == "history")
    check_table(table_of((folder / "files" / history["trials.path"]).read_text()), sweep)
    assert "t001" in (folder / "files" / history["tree.path"]).read_text()
    # All that is to be uploaded lies there, so that the folder of the sweep may be taken away.
    (artifact,) = (record["artifact"] for record in records if record["type"] == "artifact")
    for entry in artifact["manifest"]["contents"]:
        assert Path(entry["local_path"]).is_relative_to(folder)

    shutil.copytree(folder, sweep / "t000" / "wandb" / folder.name)  # as a trial's own would be
    server = request.getfixturevalue("wandb_server")
    command = state.wandb.sync_command.replace("wandb sync", f"{WANDB} sync", 1)
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=300)
    path = server.summary(state.wandb.id)["trials"]["path"]
    check_table(table_of(server.files[f"{state.wandb.id}/{path}"]), sweep)
    assert len(server.history(state.wandb.id)) == 1


def test_disabled_leaves_nothing(sweep: Path) -> None:
    before = (sweep / "sweep.json").read_text()
    _, said = show(sweep, "disabled")
    assert said == []
    assert (sweep / "sweep.json").read_text() == before
    assert not (sweep / "wandb").exists()


def test_an_unreachable_server_costs_a_line(
    sweep: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
        state, said = show(sweep)
    assert state.wandb is not None
    assert state.wandb.mode == "offline"
    assert len(said) == 2
    assert "W&B can't be reached" in said[0]
    assert "wandb sync" in said[1]


def test_a_client_that_hangs_is_given_up(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_run, "START", "import time; time.sleep(600)")
    state, said = show(sweep, "offline", limit=0.5)
    assert state.wandb is not None
    assert state.wandb.mode == "failed"
    assert len(said) == 1
    assert "the sweep is not affected; give the same command again" in said[0]


def test_passwords_stay_here(sweep: Path, wandb_server: Any) -> None:
    state = read_sweep(sweep)
    state.base["corpus"] = "s3://someone:secret@store/corpus"
    save(sweep, state)
    found, _ = show(sweep)
    assert "secret" not in json.dumps(wandb_server.config(id_of(found)))
    assert "corpus" in wandb_server.config(id_of(found))["base"]


# The package as far as a report of ours needs it. It writes down what is saved.
FAKE_REPORTS = """
import json, pathlib

class Thing:
    def __init__(self, *parts, **keys):
        self.__dict__.update(keys, parts=parts)

def __getattr__(name):
    return type(name, (Thing,), {})

HERE = pathlib.Path(__file__).parent

class Report(Thing):
    known = ""

    @classmethod
    def from_url(cls, url):
        return cls(known=url)

    def save(self):
        kinds = [type(panel).__name__ for panel in self.blocks[0].panels]
        about = {"title": self.title, "known": self.known, "panels": kinds}
        with (HERE / "saved").open("a") as file:
            print(json.dumps(about), file=file)

    @property
    def url(self):
        return self.known or "http://page/1"
"""


@pytest.fixture
def fake_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """Lets the client's process find a made-up wandb-workspaces; returns what was saved."""
    folder = tmp_path / "fake" / "wandb_workspaces" / "reports" / "v2"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()  # else an installed one would come first
    (folder / "__init__.py").write_text(FAKE_REPORTS)
    monkeypatch.syspath_prepend(tmp_path / "fake")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"), prepend=":")
    return lambda: [json.loads(line) for line in (folder / "saved").open()]


def test_a_report_is_made_once_and_brought_up_to_date(
    sweep: Path, wandb_server: Any, fake_reports: Callable[[], list[Any]]
) -> None:
    """With a package of our own in the place of W&B's: that W&B draws it is not tested."""
    first, said = show(sweep)
    assert first.wandb is not None
    assert first.wandb.report == "http://page/1"
    assert said[-1] == "W&B report: http://page/1"
    assert wandb_server.summary(id_of(first))["report"] == "http://page/1"
    again, _ = show(sweep)
    assert again.wandb is not None
    assert again.wandb.report == "http://page/1"
    made, updated = fake_reports()
    assert made["title"] == "Sweep decay"
    assert "ParallelCoordinatesPlot" in made["panels"]
    assert (made["known"], updated["known"]) == ("", "http://page/1")


def test_the_package_of_wandb_builds_and_saves_the_report(sweep: Path, wandb_server: Any) -> None:
    """Where the optional package is installed; on a server that only keeps what it is sent."""
    pytest.importorskip("wandb_workspaces", reason="the extra 'reports' is not installed")
    first, _ = show(sweep)
    again, _ = show(sweep)
    assert first.wandb is not None
    assert again.wandb is not None
    assert first.wandb.report == again.wandb.report
    ((name, view),) = wandb_server.reports.items()
    assert str(first.wandb.report).endswith(f"Sweep-decay--{name}")
    _, grid, *_ = json.loads(view["spec"])["blocks"]
    (runs,) = grid["metadata"]["runSets"]
    filters = runs["filters"]["filters"]
    assert [(one["key"]["name"], one["value"]) for one in filters] == [
        ("group", "g"),
        ("jobType", "trial"),
    ]
    panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
    (axes,) = (p["config"]["columns"] for p in panels if "columns" in p["config"])
    assert [axis["accessor"] for axis in axes] == [
        "config:sweep.value.decay",
        "config:sweep.value.batch",
        "summary:metric",
    ]
