"""A cluster that `ray up` launches on hosts, by the file that users get for theirs.

The commands run as on a user's own computer, which knows the hosts by their addresses and an
ssh key, and reaches the dashboard through the tunnel of `ray dashboard`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from hosts import ROOT, Hosts

FILE = ROOT / "cluster" / "on-prem.yaml"
BIN = Path(sys.executable).parent
JOB = "demo"
STORE = "--object-store-memory=100000000"
DEADLINE = 180.0

# How long Ray waits: for an answer of a node before it counts as dead, for signs of life of a
# worker before it is started again, for the head before a worker ends. Ray's own values make
# it two minutes and a half of waiting for the same things to happen.
WAITS = {
    "RAY_health_check_timeout_ms": 3000,
    "RAY_health_check_failure_threshold": 3,
    "AUTOSCALER_HEARTBEAT_TIMEOUT_S": 12,
    "RAY_gcs_rpc_server_reconnect_timeout_s": 15,
}


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first true answer; what is waited for is named if there is none for minutes."""
    deadline = time.monotonic() + DEADLINE
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.2)
    return answer


def cluster_file(hosts: Hosts) -> dict[str, Any]:
    """cluster/on-prem.yaml for these hosts: the first is the head.

    Replaced is what a user must replace (addresses, user, key); and how `ray start` is called.
    A host sees the whole machine's CPUs and memory, so each is told its share of them: the head
    has no CPU for workers and every other host one, so that two workers are on two hosts.
    """
    config = yaml.safe_load(FILE.read_text())
    head, *workers = [host.address for host in hosts]
    config["cluster_name"] = f"hosts-{os.getpid()}"
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    config["min_workers"] = config["max_workers"] = len(workers)
    waits = " ".join(f"{name}={value}" for name, value in WAITS.items())
    for role, argument, cpus in (("head", "--head", 0), ("worker", "--address", 1)):
        key, size = f"{role}_start_ray_commands", f"--num-cpus={cpus} {STORE}"
        stop, start = config[key]
        assert f" {argument}" in start
        start = start.replace(f" {argument}", f" {size} {argument}")
        config[key] = [stop, f"export {waits}; {start}"]
    return config


class Launched:
    """The user's end of a cluster.

    Args:
        hosts: that it is to run on.
        folder: the user's home.
    """

    def __init__(self, hosts: Hosts, folder: Path):
        folder.mkdir()
        config = cluster_file(hosts)
        self._name, self._file = config["cluster_name"], folder / "cluster.yaml"
        self._file.write_text(yaml.safe_dump(config))
        self._log, self._token = folder / "commands.log", folder / ".ray" / "auth_token"
        self._tunnel: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._environment = {
            "HOME": str(folder),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Where the launcher remembers what it did.
            "RAY_TMPDIR": str(folder),
            "TMPDIR": str(folder),
        }

    def up(self) -> None:
        """Launch it, with a new token."""
        self.ray("get-auth-token", "--generate")
        self.ray("up", "--yes", str(self._file))

    def down(self) -> None:
        """End it."""
        self._close_tunnel()
        self.ray("down", "--yes", str(self._file))

    def open_tunnel(self) -> None:
        """`ray dashboard`: return once the dashboard answers."""
        self._port = _free_port()
        with self._log.open("ab") as log:
            self._tunnel = subprocess.Popen(
                [BIN / "ray", "dashboard", "--port", str(self._port), str(self._file)],
                env=self._environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # with the ssh that it starts
            )
        wait_until(self._answers, "the dashboard answers")

    def submit(self, *entrypoint: str) -> None:
        """`ray job submit` from the repository's root."""
        about = ("--no-wait", "--submission-id", JOB, "--working-dir", ".")
        self._job("submit", *about, "--", *entrypoint)

    def stop(self) -> None:
        """`ray job stop`: return once it has ended."""
        self._job("stop", JOB)

    def told(self) -> str:
        """What job and commands said last, to understand a failure."""
        with suppress(AssertionError, subprocess.TimeoutExpired):
            self._job("logs", JOB)
        return self._log.read_text()[-8000:]

    def execute(self, command: str) -> str:
        """`ray exec`: what a command prints on the head."""
        return self.ray("exec", str(self._file), command)

    def alive(self) -> set[str]:
        """The addresses of the hosts that Ray holds for alive."""
        return {node["node_ip"] for node in self._nodes() if node["state"] == "ALIVE"}

    def held(self) -> set[str]:
        """The addresses of the hosts on which a run holds a place for a worker."""
        address = {node["node_id"]: node["node_ip"] for node in self._nodes()}
        groups = self._state("placement_groups")
        bundles = [
            one for group in groups if group["state"] == "CREATED" for one in group["bundles"]
        ]
        return {address[bundle["node_id"]] for bundle in bundles}

    def refuses_strangers(self) -> bool:
        """Whether the dashboard answers nothing to who doesn't know the token."""
        try:
            self._get("/api/v0/nodes", token="0" * 64)
        except urllib.error.HTTPError as refusal:
            return refusal.code in (401, 403)
        return False

    def ray(self, *arguments: str) -> str:
        """Run a command of Ray's to its end, which must be a good one; returns what it says."""
        done = subprocess.run(
            [BIN / "ray", *arguments],
            env=self._environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
        )
        with self._log.open("a") as log:
            log.write(f"$ ray {' '.join(arguments)}\n{done.stdout}\n")
        assert done.returncode == 0, f"ray {' '.join(arguments)}:\n{done.stdout[-5000:]}"
        return done.stdout

    def close(self) -> None:
        """Leave nothing of the user's behind."""
        self._close_tunnel()
        mark = hashlib.sha256(self._name.encode()).hexdigest()[:10]
        for sockets in Path("/tmp").glob(f"ray_ssh_*/{mark}"):
            shutil.rmtree(sockets, ignore_errors=True)

    def _job(self, command: str, *arguments: str) -> None:
        self.ray("job", command, "--address", f"http://127.0.0.1:{self._port}", *arguments)

    def _nodes(self) -> list[dict[str, Any]]:
        return self._state("nodes")

    def _state(self, of: str) -> list[dict[str, Any]]:
        answer = self._get(f"/api/v0/{of}?detail=true&limit=1000", self._token.read_text().strip())
        found: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return found

    def _get(self, path: str, token: str) -> Any:
        """What the dashboard's API answers through the tunnel."""
        url = f"http://127.0.0.1:{self._port}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def _answers(self) -> bool:
        try:
            return bool(self._nodes())
        except OSError:
            return False

    def _close_tunnel(self) -> None:
        if self._tunnel is not None:
            os.killpg(self._tunnel.pid, signal.SIGTERM)
            self._tunnel.wait(timeout=DEADLINE)
            self._tunnel = None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
