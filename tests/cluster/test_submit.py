"""What `manta submit` refuses before it sends anything, and what it would run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ray_head import free_port
from written_configs import CORPUS, RUN

from manta.cluster.package import Package
from manta.cluster.submit import Work, _arguments, job_id, open_work
from manta.config import ConfigError

SHARED = ["corpus=/shared/corpus", "run.storage=s3://bucket/runs"]
SWEEP = "sweep: {name: s, storage: /shared}\nbase: base.yaml\nspace: lr_peak\n"


def written(folder: Path, **texts: str) -> Path:
    """Config files by name; returns the first one's path."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(texts))}.yaml"


def test_the_command_follows_from_the_config(tmp_path: Path) -> None:
    run = written(tmp_path, run=RUN)
    sweep = written(tmp_path, sweep=SWEEP, base=RUN.replace("shards", "/shared/corpus"))
    corpus = written(tmp_path, corpus=CORPUS)
    away = ["out=/shared/out", "sources.0.paths=[/shared/a.txt]"]
    assert open_work(run, SHARED).command == "train"
    assert open_work(sweep).command == "sweep"
    assert open_work(corpus, away).command == "prepare"
    assert [open_work(p, o).name for p, o in ((run, SHARED), (sweep, []), (corpus, away))] == [
        "demo",
        "s",
        "out",
    ]


def test_paths_of_this_machine_are_refused_by_file_and_key(tmp_path: Path) -> None:
    run = written(tmp_path, run=RUN)
    with pytest.raises(ConfigError) as refused:
        open_work(run)
    storage, corpus = str(refused.value).splitlines()
    assert storage.startswith(f"{run}:1: run.storage = 'runs' is a path of this machine")
    assert corpus.startswith(f"{run}:2: corpus = 'shards' is a path of this machine")
    assert corpus.endswith("(on the command line: corpus=/shared/shards)")
    with pytest.raises(ConfigError, match=r"command line: corpus = '~/c'"):
        open_work(run, [*SHARED, "corpus=~/c"])
    with pytest.raises(ConfigError, match=r"model\.pretrained = '\./model'"):
        open_work(run, [*SHARED, "model={pretrained: ./model}"])
    open_work(run, [*SHARED, "model={pretrained: someone/model}"])


def test_a_sweep_and_a_corpus_with_paths_of_this_machine_are_refused(tmp_path: Path) -> None:
    sweep = written(tmp_path, sweep=SWEEP.replace("/shared", "here"), base=RUN)
    with pytest.raises(ConfigError) as refused:
        open_work(sweep)
    storage, corpus = str(refused.value).splitlines()
    assert storage.startswith(f"{sweep}:1: sweep.storage = 'here'")
    assert corpus.startswith(f"{tmp_path / 'base.yaml'}:2: corpus = 'shards'")
    assert corpus.endswith("(in the sweep's overrides: corpus=/shared/shards)")
    with pytest.raises(ConfigError, match=r"out = 'shards'") as refused:
        open_work(written(tmp_path, corpus=CORPUS))
    out, paths = str(refused.value).splitlines()
    assert "or a URL" not in out  # for it would be refused
    assert out.endswith("(on the command line: out=/shared/shards)")
    assert "sources.0.paths.0 = 'a.txt'" in paths
    assert "or a URL (on the command line" in paths


def test_files_that_lie_elsewhere_there_are_named_anew(tmp_path: Path) -> None:
    base = RUN.replace("shards", "/shared/corpus")
    sweep = written(tmp_path, sweep=SWEEP, base=base)
    work = open_work(sweep, ["concurrent=2"])
    own, beside = Path("configs/sweep.yaml"), Path("configs/base.yaml")
    files = work.files

    def arguments(place: Path) -> list[str]:
        placed = {files[""]: own, files["base"]: place}
        return _arguments(work, Package(tmp_path, (), 0, 0, [], placed))

    assert arguments(beside) == ["configs/sweep.yaml", "concurrent=2"]
    assert arguments(Path("jobs/demo/run.yaml"))[2:] == ["base=../jobs/demo/run.yaml"]


def test_an_objective_of_ones_own_travels(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Mine:\n    pass\n")
    kept = RUN.replace("shards", "/shared/corpus").replace("here", "/shared/runs")
    run = written(tmp_path, run=kept + "objective: {type: ./mine.py:Mine}\n")
    work = open_work(run, SHARED)
    assert work.files == {"": run, "objective.type": tmp_path / "mine.py"}

    def arguments(work: Work, own: str, objective: str, base: str | None = None) -> list[str]:
        placed = {run: Path(own), tmp_path / "mine.py": Path(objective)}
        if base is not None:
            placed = {**placed, work.files[""]: Path(own), work.files["base"]: Path(base)}
        return _arguments(work, Package(tmp_path, (), 0, 0, [], placed))[1 + len(work.overrides) :]

    assert arguments(work, "configs/run.yaml", "configs/mine.py") == []
    moved = arguments(work, "jobs/run.yaml", "configs/mine.py")
    assert moved == ["objective.type=./configs/mine.py:Mine"]

    written(tmp_path, base=kept + "objective: {type: ./mine.py:Mine}\n")
    sweep = open_work(written(tmp_path, sweep=SWEEP))
    placed = "configs/sweep.yaml", "configs/mine.py"
    assert arguments(sweep, *placed, base="configs/base.yaml") == []
    with pytest.raises(ConfigError, match=r"objective\.type = .*on the cluster: put the file"):
        arguments(sweep, *placed, base="jobs/base.yaml")


def test_all_files_of_a_sweep_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "tune_spaces").mkdir()
    for space in ("deep/own.py", "tune_spaces/mine.py"):
        (tmp_path / space).write_text("space = {}\n")
    written(tmp_path, base=RUN.replace("shards", "/shared/corpus"))
    sweep = written(tmp_path / "deep", sweep=SWEEP.replace("base.yaml", "../base.yaml"))
    monkeypatch.chdir(tmp_path)
    files = {space: open_work(sweep, [f"space={space}"]).files for space in ("./own.py", "mine")}
    assert files == {
        "./own.py": {
            "": sweep,
            "base": tmp_path / "base.yaml",
            "space": tmp_path / "deep" / "own.py",
        },
        "mine": {
            "": sweep,
            "base": tmp_path / "base.yaml",
            "space": tmp_path / "tune_spaces" / "mine.py",
        },
    }


def test_a_file_of_the_users_own_travels_and_is_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named from the config's folder in the config, from the current one on the command line."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine.py").write_text("class Net: ...\n")
    named = RUN.replace("model:", "data: {format: ./mine.py:Net}\nmodel:")
    run = written(tmp_path / "conf", run=named)
    work = open_work(run, SHARED)
    assert work.files == {"": run, "data.format": tmp_path / "conf" / "mine.py"}
    placed = {path: Path("configs") / path.name for path in work.files.values()}
    package = Package(tmp_path, (), 1, 1, [], placed)
    assert _arguments(work, package) == ["configs/run.yaml", *SHARED]

    monkeypatch.chdir(tmp_path)
    given = open_work(run, [*SHARED, "data.format=conf/mine.py:Net"])
    assert _arguments(given, package)[-1] == "data.format=./configs/mine.py:Net"
    with pytest.raises(ConfigError, match=r"run\.yaml:\d+: data\.format = .*nowhere\.py can't be"):
        open_work(written(tmp_path / "conf", run=named.replace("mine.py", "nowhere.py")), SHARED)


def test_an_evaluation_travels_with_its_files(tmp_path: Path) -> None:
    """As a job of its own, which needs a model, and with a run that measures its checkpoints."""
    for name in ("prompts.jsonl", "mine.py"):
        (tmp_path / name).write_text("def measure(model): ...\n")
    text = (
        "name: quality\nsplits: {a: {}}\nown: {b: {measure: './mine.py:measure'}}\n"
        "generations: {c: {file: prompts.jsonl}}\n"
    )
    asked = written(tmp_path, eval=text)
    with pytest.raises(ConfigError, match=r"--model RUN\[@STEP\]"):
        open_work(asked)
    with pytest.raises(ConfigError, match=r"--model runs/demo is a path of this machine"):
        open_work(asked, [], "runs/demo")
    with pytest.raises(ConfigError, match=r"splits\.a\.corpus = 'here'"):
        open_work(asked, ["splits.a.corpus=here"], "/shared/demo")
    with pytest.raises(ConfigError, match=r"--model is for an evaluation"):
        open_work(written(tmp_path, run=RUN), SHARED, "/shared/demo")

    work = open_work(asked, [], "/shared/demo@7")
    beside = {asked, tmp_path / "prompts.jsonl", tmp_path / "mine.py"}
    assert (work.command, work.name) == ("evaluate", "quality")
    assert set(work.files.values()) == beside
    placed = {path: Path("configs") / path.name for path in beside}
    package = Package(tmp_path, (), 1, 1, [], placed)
    assert _arguments(work, package) == ["/shared/demo@7", "configs/eval.yaml"]
    moved = Package(tmp_path, (), 1, 1, [], {**placed, tmp_path / "mine.py": Path("jobs/mine.py")})
    assert _arguments(work, moved)[2:] == ["own.b.measure=./jobs/mine.py:measure"]

    run = written(tmp_path, run=f"{RUN}eval: {{evaluators: eval.yaml}}\n")
    work = open_work(run, SHARED)
    assert set(work.files.values()) == {run, *beside}
    assert _arguments(
        work, Package(tmp_path, (), 1, 1, [], {**placed, run: Path("configs/run.yaml")})
    ) == [
        "configs/run.yaml",
        *SHARED,
    ]


def test_a_gate_travels(tmp_path: Path) -> None:
    text = "name: ship\nthresholds: {a/b: {at_least: 1}}\nalerts: {command: ./alert.sh}\n"
    asked = written(tmp_path, gate=text)
    with pytest.raises(ConfigError, match=r"which model is to be decided on"):
        open_work(asked)
    with pytest.raises(ConfigError, match=r"gate\.yaml:\d+: alerts\.command\.0 = './alert.sh'"):
        open_work(asked, [], "/shared/demo")
    alerts = ["alerts.command=[mail, me]"]
    with pytest.raises(ConfigError, match=r"--model registry:chat@1 is a path of this machine"):
        open_work(asked, alerts, "registry:chat@1")
    work = open_work(asked, alerts, "registry:/shared/registry/chat@1")
    assert (work.command, work.name, work.files) == ("gate", "ship", {"": asked})
    package = Package(tmp_path, (), 1, 1, [], {asked: Path("configs/gate.yaml")})
    assert _arguments(work, package) == [
        "registry:/shared/registry/chat@1",
        "configs/gate.yaml",
        *alerts,
    ]


def test_a_retraining_travels_with_all_that_it_runs(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").touch()
    files = {
        "triggers": "champion: chat@champion\ntriggers: {age: {days: 1}}\ntrain: run.yaml\n"
        "evaluate: eval.yaml\ngate: gate.yaml\n",
        "run": RUN,
        "eval": "name: q\ngenerations: {c: {file: prompts.jsonl}}\n",
        "gate": "name: ship\nthresholds: {a/b: {at_least: 1}}\n",
    }
    asked = written(tmp_path, **files)
    with pytest.raises(ConfigError) as refused:
        open_work(asked, [], go=True)
    for key in ("registry = 'registry'", "run.storage", "corpus = "):
        assert key in str(refused.value), key
    with pytest.raises(ConfigError, match="--go is for a retraining"):
        open_work(tmp_path / "run.yaml", SHARED, go=True)
    given = ["registry=/shared/registry", f"overrides=[{', '.join(SHARED)}]"]
    work = open_work(asked, given, go=True)
    beside = {tmp_path / f"{name}.yaml" for name in files} | {tmp_path / "prompts.jsonl"}
    assert (work.command, work.name) == ("retrain", "retrain-chat")
    assert set(work.files.values()) == beside
    placed = {path: Path("configs") / path.name for path in beside}
    package = Package(tmp_path, (), 1, 1, [], placed)
    assert _arguments(work, package) == ["configs/triggers.yaml", *given, "--go"]


def test_an_id_begins_as_the_run_is_called_and_is_new() -> None:
    assert job_id("a.b").startswith("a-b-")
    assert job_id("a") != job_id("a")


@pytest.mark.parametrize("command", ["status", "submit", "logs", "stop"])
def test_without_a_server_the_message_says_what_to_do(tmp_path: Path, command: str) -> None:
    run = written(tmp_path, run=RUN)
    more = {"submit": [str(run), *SHARED], "status": []}.get(command, ["some-job"])
    address = f"http://127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-m", "manta.cli", command, *more, "--address", address],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = f"checking {run} …\n" if command == "submit" else ""
    assert (done.returncode, done.stdout) == (1, said)
    assert done.stderr.startswith(f"error: no job server answers at {address}: run 'ray dashboard")
    assert "Traceback" not in done.stderr
