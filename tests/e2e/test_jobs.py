"""`ray job submit` on a real head where Manta is not installed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient
from tiny_config import corpus_config, make_documents, run_config, write_yaml

ROOT = Path(__file__).resolve().parents[2]
TERMINAL = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED}
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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def head() -> Iterator[JobSubmissionClient]:
    """A Ray head of our own, with dashboard and job server, ended by its own process group."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    dashboard = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--port", str(free_port()), "--dashboard-port", str(dashboard)),
            # Another Ray on the machine, such as the other tests', has the default ports.
            *("--dashboard-agent-listen-port", str(free_port())),
            *("--dashboard-agent-grpc-port", str(free_port())),
            *("--ray-client-server-port", str(free_port())),
            *("--num-cpus", "2", "--temp-dir", str(folder), "--disable-usage-stats"),
        ],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield _connected(process, dashboard)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # asked to end, it waits half a minute for its own
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _connected(process: subprocess.Popen[bytes], port: int) -> JobSubmissionClient:
    """A client, as soon as a job is accepted: the server answers before its agent is up."""
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client = JobSubmissionClient(f"http://127.0.0.1:{port}")
            client.submit_job(entrypoint="true")
            return client
        except (ConnectionError, RuntimeError):
            time.sleep(0.2)
    raise AssertionError("the head did not start")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone would hold, without what git ignores."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "platform", folder / "platform", ignore=_no_build)
    shutil.copytree(ROOT / "jobs", folder / "jobs", ignore=_no_build)
    return folder


def _no_build(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__" or name.endswith(".egg-info")]


async def _follow(client: JobSubmissionClient, job: str) -> str:
    return "".join([lines async for lines in client.tail_job_logs(job)])


def run_job(client: JobSubmissionClient, entrypoint: str, checkout: Path) -> str:
    """Submit, follow the logs to the end, and see it succeed; returns the logs."""
    job = client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": str(checkout)})
    asyncio.run(_follow(client, job))
    while client.get_job_status(job) not in TERMINAL:
        time.sleep(0.2)
    logs = client.get_job_logs(job)
    assert client.get_job_status(job) == JobStatus.SUCCEEDED, logs
    return logs


def test_modules_come_from_the_working_directory(head, checkout: Path) -> None:
    (checkout / "where.py").write_text(WHERE)
    logs = run_job(head, f"{sys.executable} where.py", checkout)
    found = [line.split()[1] for line in logs.splitlines() if line.startswith("FOUND")]
    assert len(found) == 3
    driver, worker, package = map(Path, found)
    assert driver.name == worker.name == "platform.py"
    assert ROOT not in package.parents
    assert package.parts[-2:] == ("manta", "__init__.py")


def test_prepare_and_train_as_jobs(head, checkout: Path, tmp_path: Path) -> None:
    documents = make_documents(tmp_path / "documents")
    corpus = write_yaml(tmp_path / "corpus.yaml", corpus_config(tmp_path / "corpus", documents))
    run_job(head, f"{sys.executable} jobs/prepare.py {corpus}", checkout)
    assert (tmp_path / "corpus" / "manifest.json").exists()

    config = write_yaml(tmp_path / "run.yaml", run_config(tmp_path, tmp_path / "corpus"))
    logs = run_job(head, f"{sys.executable} jobs/train.py {config} run.name=job", checkout)
    assert "2 workers" in logs
    record = json.loads((tmp_path / "job" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["totals"]["steps"] == 12
