"""A Ray head of our own with its job server, guarded by a token, as a cluster's is."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "the-token-of-the-head-under-test"
START_SECONDS = 180.0


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
        address: of its job server.
        folder: where Ray keeps sessions and their logs.
        client: which has the token.
    """

    address: str
    folder: Path
    client: JobSubmissionClient

    def environment(self, **more: str) -> dict[str, str]:
        """Of a user's shell on another machine: the token, and nothing of this Ray."""
        mine = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "WANDB_"))}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        code = os.pathsep.join([str(ROOT / "platform"), mine.get("PYTHONPATH", "")])
        return {**mine, **token, "PYTHONPATH": code, "RAY_API_SERVER_ADDRESS": self.address, **more}

    def wait(self, job: str) -> str:
        """Wait for a job's end; returns its status."""
        while not (status := JobStatus(self.client.get_job_status(job))).is_terminal():
            time.sleep(0.1)
        return str(status.value)


@contextmanager
def ray_head(environment: Mapping[str, str]) -> Iterator[Head]:
    """Start a head with `environment` on top of this process's; it ends with the block."""
    # Sockets lie below this folder, and their paths may be 107 characters long: keep it short.
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
            "--include-log-monitor=false",  # a driver hears nothing of its workers' output
        ],
        env={**_without_code(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        umask=0o022,
    )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        yield Head(address, folder, _connected(process, address))
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # asked to end, it waits half a minute for its own
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _without_code() -> dict[str, str]:
    """This environment with its Python first, as `python`, and without the code under test."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "PATH": path}


def _connected(process: subprocess.Popen[bytes], address: str) -> JobSubmissionClient:
    """A client, as soon as a job is accepted: the server answers before its agent is up."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            client = JobSubmissionClient(address, headers=headers)
            client.submit_job(entrypoint="true")
            return client
        except (ConnectionError, RuntimeError):
            time.sleep(0.2)
    raise AssertionError("the head did not start")
