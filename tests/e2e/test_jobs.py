"""Jobs on a real head that is guarded by a token and where Manta is not installed."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import copy_of_manta
from ray.job_submission import JobSubmissionClient
from ray_head import ROOT, TOKEN, Head, ray_head
from tiny_config import STEP, corpus_config, make_documents, run_config, write_yaml

from manta.record.verify_run import verify

LONG = 300.0
# What only the processes of the cluster may know, as its owner put it there.
PLANTED = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-of-the-store",
}
WHERE = """
import platform, ray, sys
assert platform.system(), "this is Python's own module"
ray.init(runtime_env={"py_modules": ["platform/manta"]})

@ray.remote
def worker():
    import platform, manta
    return platform.__file__, manta.__file__

for name in (platform.__file__, *ray.get(worker.remote())):
    print("FOUND", name)
"""
# Saving takes longer than the three seconds that Ray leaves to a job by default.
SLOW_TO_SAVE = {"kind": "slow", "at": "checkpoint", "seconds": 4.0}
SLOW_TO_TRAIN = {"kind": "slow", "at": "step", "seconds": 0.5, "attempt": None}

Manta = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head({"WANDB_MODE": "offline", **PLANTED}) as found:
        yield found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone would hold, without what git ignores."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "platform", folder / "platform", ignore=_no_build)
    shutil.copytree(ROOT / "jobs", folder / "jobs", ignore=_no_build)
    return folder


def _no_build(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__" or name.endswith(".egg-info")]


@pytest.fixture(scope="module")
def shared(head: Head, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage that all nodes share, with a corpus that a job prepared."""
    folder = tmp_path_factory.mktemp("shared")
    documents = make_documents(folder / "documents")
    config = write_yaml(folder / "corpus.yaml", corpus_config(folder / "corpus", documents))
    logs = run_job(head, f"python jobs/prepare.py {config}", checkout)
    assert f"train on it: manta train RUN.yaml corpus={folder}/corpus\n" in logs
    return folder


@pytest.fixture
def manta(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manta:
    """Runs the command line as on a user's machine, beside the cluster."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
        words = [*map(str, arguments)]
        with tempfile.TemporaryFile("w+") as errors:
            process = copy_of_manta(
                *words, environment=head.environment(**environment), stderr=errors
            )
            said, _ = process.communicate(timeout=LONG)
            errors.seek(0)
            return subprocess.CompletedProcess(words, process.wait(), said, errors.read())

    return command


def submitted(done: subprocess.CompletedProcess[str]) -> str:
    """The id of the job that `manta submit` has sent."""
    assert done.returncode == 0, done.stderr
    return next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("job "))


def run_job(head: Head, entrypoint: str, checkout: Path) -> str:
    """Submit as plain Ray does, and see it succeed; returns the logs."""
    job = head.client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": str(checkout)})
    status, logs = head.wait(job), head.client.get_job_logs(job)
    assert status == "SUCCEEDED", logs
    return logs


def endless(shared: Path, name: str, **sections: Any) -> dict[str, Any]:
    """A run that will not end by itself, and leaves the processors to those who look at it."""
    config = run_config(
        shared,
        shared / "corpus",
        schedule={"horizon": 10**6 * STEP},
        faults=[SLOW_TO_SAVE, SLOW_TO_TRAIN],
        scaling={"min": 1, "spares": 0},
        **sections,
    )
    config["run"]["name"] = name
    return config


def wait_for_rows(head: Head, job: str, run_dir: Path) -> None:
    deadline = time.monotonic() + LONG
    metrics = run_dir / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().count("\n") > 3):
        assert time.monotonic() < deadline, head.client.get_job_logs(job)
        time.sleep(0.1)


def saved_all(run_dir: Path) -> bool:
    """Whether an interrupted run has a checkpoint of its newest step."""
    record = json.loads((run_dir / "run.json").read_text())
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").open()]
    assert record["status"] == "interrupted", record["reason"]
    return bool(record["checkpoint"]["step"] == max(steps) == record["totals"]["steps"])


def test_modules_come_from_the_working_directory(head: Head, checkout: Path) -> None:
    (checkout / "where.py").write_text(WHERE)
    logs = run_job(head, "python where.py", checkout)
    found = [line.split()[1] for line in logs.splitlines() if line.startswith("FOUND")]
    assert len(found) == 3
    driver, worker, package = map(Path, found)
    assert driver.name == worker.name == "platform.py"
    assert ROOT not in package.parents
    assert package.parts[-2:] == ("manta", "__init__.py")


def test_without_the_token_nothing_is_taken(manta: Manta, head: Head, shared: Path) -> None:
    config = write_yaml(shared / "refused.yaml", run_config(shared, shared / "corpus"))
    before = len(head.client.list_jobs())
    for wrong in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "another"}):
        done = manta("submit", config, **wrong)
        assert (done.returncode, done.stdout) == (1, f"checking {config} …\n")
        assert "it requires its token" in done.stderr
        assert "Traceback" not in done.stderr
    with pytest.raises(Exception, match=r"401|[Aa]uthentication"):
        JobSubmissionClient(head.address).submit_job(entrypoint="true")
    assert len(head.client.list_jobs()) == before


@pytest.fixture(scope="module")
def plain(head: Head, checkout: Path, shared: Path) -> str:
    """A job that trains without end, submitted as plain Ray does."""
    config = write_yaml(shared / "endless.yaml", endless(shared, "stopped"))
    job = head.client.submit_job(
        entrypoint=f"python jobs/train.py {config}", runtime_env={"working_dir": str(checkout)}
    )
    wait_for_rows(head, job, shared / "stopped")
    return job


def test_two_runs_at_once(manta: Manta, head: Head, shared: Path, plain: str) -> None:
    """The second one from a folder that is no checkout; it finishes as if it were alone."""
    go = shared / "both-have-begun"
    made = run_config(
        shared,
        shared / "corpus",
        schedule={"horizon": 20 * STEP},
        scaling={"min": 2, "spares": 0},
        wandb={"mode": "disabled"},
        faults=[{"kind": "hold", "step": 5, "until": str(go)}],
    )
    config = write_yaml(shared / "half.yaml", made)
    other = submitted(manta("submit", config, "run.name=other"))
    wait_for_rows(head, other, shared / "other")
    assert {head.client.get_job_status(job).value for job in (plain, other)} == {"RUNNING"}
    go.touch()
    assert head.wait(other) == "SUCCEEDED", head.client.get_job_logs(other)
    assert verify(shared / "other", shards=False).consumed.steps == 20
    record = json.loads((shared / "other" / "run.json").read_text())
    assert (record["status"], record["totals"]["steps"]) == ("finished", 20)
    assert "2 workers" in head.client.get_job_logs(other)
    assert head.client.get_job_info(other).metadata["job_name"] == "other"
    shown = manta("status").stdout.splitlines()
    expected = [[plain, "RUNNING"], [other, "SUCCEEDED"]]
    assert [line.split()[:2] for line in shown[-2:]] == expected


def test_a_run_is_looked_at_and_saved_when_it_is_stopped(
    manta: Manta, head: Head, shared: Path, plain: str
) -> None:
    """However it was submitted: here by plain Ray."""
    check_name_is_taken(manta, shared / "endless.yaml")
    check_ctrl_c_detaches(head, plain)
    running = manta("status", plain).stdout
    assert "RUNNING" in running
    assert re.search(r"step [\d,]+/1,000,000", running)  # the newest lines

    done = manta("stop", plain)
    assert "interrupted: saving a checkpoint" in done.stdout
    assert f"{plain}: STOPPED" in done.stdout
    assert done.returncode == 0
    assert saved_all(shared / "stopped")
    record = json.loads((shared / "stopped" / "run.json").read_text())
    assert verify(shared / "stopped", shards=False).consumed.steps == record["totals"]["steps"]
    assert record["checkpoint"]["seconds"] >= SLOW_TO_SAVE["seconds"]
    assert record["wandb"]["mode"] == "offline", "Ray's signal has not reached the W&B client"
    assert manta("stop", plain).stdout == f"{plain} has already ended: STOPPED\n"
    assert "the same command continues the run" in manta("logs", plain).stdout


def check_name_is_taken(manta: Manta, config: Path) -> None:
    done = manta("submit", config, "--follow")
    assert done.returncode == 1
    assert "another driver is at work on this run" in done.stdout
    assert "choose another run.name" in done.stdout
    assert done.stdout.rstrip().endswith("FAILED")


def check_ctrl_c_detaches(head: Head, job: str) -> None:
    follower = subprocess.Popen(
        [sys.executable, "-m", "manta.cli", "logs", job, "--follow"],
        env=head.environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    while "training from step" not in follower.stdout.readline():
        assert follower.poll() is None
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=LONG)
    assert follower.returncode == 130
    assert f"detached; the job continues. To watch it again: manta logs {job} --follow" in said
    assert "Traceback" not in said


def test_a_sweep_is_saved_too(manta: Manta, head: Head, shared: Path, tmp_path: Path) -> None:
    base = endless(shared, "base", eval={"every": 10**5 * STEP, "tokens": STEP})
    write_yaml(tmp_path / "base.yaml", base)
    (tmp_path / "space.py").write_text(
        'from ray import tune\nspace = {"schedule.lr": tune.grid_search([1e-3, 2e-3])}\n'
    )
    sweep = {"sweep": {"name": "swept", "storage": str(shared)}, "base": "base.yaml"}
    config = write_yaml(tmp_path / "sweep.yaml", {**sweep, "space": "./space.py"})
    job = submitted(manta("submit", config))
    deadline = time.monotonic() + LONG
    while not list(shared.glob("swept/*/metrics.jsonl")):
        assert time.monotonic() < deadline, head.client.get_job_logs(job)
        assert head.client.get_job_status(job).value in ("PENDING", "RUNNING")
        time.sleep(0.1)
    (run_dir,) = {path.parent for path in shared.glob("swept/*/metrics.jsonl")}
    wait_for_rows(head, job, run_dir)
    head.client.stop_job(job)  # as `ray job stop` or the dashboard do
    assert head.wait(job) == "STOPPED"
    assert saved_all(run_dir)
    state = json.loads((shared / "swept" / "sweep.json").read_text())
    assert state["status"] == "interrupted"


def test_nothing_secret_is_written_down(manta: Manta, head: Head, shared: Path) -> None:
    """After all that ran here: what runs, jobs and Ray itself have written."""
    told = str([head.client.get_job_info(j.submission_id) for j in head.client.list_jobs()])
    told += "".join(head.client.get_job_logs(j.submission_id) for j in head.client.list_jobs())
    told += manta("status").stdout
    secrets = (*PLANTED.values(), TOKEN)
    for secret in secrets:
        assert secret not in told
    files = [path for folder in (shared, head.folder) for path in folder.rglob("*")]
    read = [path for path in files if path.is_file() and not path.is_symlink()]
    assert any(path.name == "config.yaml" for path in read)
    assert any(path.suffix == ".wandb" for path in read)
    assert any(path.suffix == ".log" for path in read)
    for path in read:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path


def test_files_are_for_the_team_to_read_and_the_owner_to_write(head: Head, shared: Path) -> None:
    """By the umask of the head, 022, as if a person had made them."""
    for path in shared.rglob("*"):
        if not path.is_symlink() and "wandb" not in path.parts:  # the client's own are for its user
            mode = path.stat().st_mode & 0o777
            assert mode & 0o044 == 0o044, (path, oct(mode))
            assert mode & 0o022 == 0, (path, oct(mode))
