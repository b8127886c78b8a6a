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
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hosts import ROOT, Hosts

FILE = ROOT / "cluster" / "on-prem.yaml"
BIN = Path(sys.executable).parent
DEADLINE = 180.0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first true answer; what is waited for is named if there is none for minutes."""
    deadline = time.monotonic() + DEADLINE
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.1)
    return answer


def cluster_file(hosts: Hosts) -> dict[str, Any]:
    """cluster/on-prem.yaml for these hosts: the first is the head.

    Replaced is what a user must replace (addresses, user, key), and what is said of each
    host's size: a host sees the whole machine's CPUs and memory, of which each has a share.
    The head has no CPU for workers and every other host one, so that two workers are on two.
    """
    config = yaml.safe_load(FILE.read_text())
    head, *workers = [host.address for host in hosts]
    config["cluster_name"] = f"hosts-{os.getpid()}"
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    config["min_workers"] = config["max_workers"] = len(workers)
    for key, cpus in (("head_start_ray_commands", 0), ("worker_start_ray_commands", 1)):
        size = f"ray start --num-cpus={cpus} --object-store-memory=100000000"
        config[key] = [command.replace("ray start", size) for command in config[key]]
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

    def submit(self, *entrypoint: str) -> str:
        """`ray job submit` from the repository's root; returns the job's id."""
        job = f"job-{os.getpid()}"
        # Ray gives a job that is stopped three seconds, too few to save anything.
        patience = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}})
        self._job(
            *("submit", "--no-wait", "--submission-id", job, "--working-dir", "."),
            *("--runtime-env-json", patience, "--", *entrypoint),
        )
        return job

    def stop(self, job: str) -> None:
        """`ray job stop`: return once it has ended."""
        self._job("stop", job)

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
        answer = self._get(f"/api/v0/{of}?detail=true&limit=1000")
        found: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return found

    def _get(self, path: str) -> Any:
        """What the dashboard's API answers through the tunnel."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}",
            headers={"Authorization": f"Bearer {self._token.read_text().strip()}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def _answers(self) -> bool:
        try:
            return bool(self._get("/api/version"))
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
