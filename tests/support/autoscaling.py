"""Ray's own autoscaler on this machine: its nodes are raylets here, all else is as in a cloud."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeStatus

HEAD = "f" * 51 + "00000"
# The `ray` command, whose head has no more processes than it needs.
RAY = """
from manta.cluster.embedded import light_processes
from ray.scripts.scripts import main
with light_processes():
    main()
"""
DEADLINE = 300.0
HERE = (NodeStatus.RUNNING, NodeStatus.IDLE)


class AutoscaledCluster:
    """A head without CPUs, and an autoscaler that brings nodes of one GPU each, or so they say.

    Args:
        most: nodes beside the head.
        idle_seconds: after which a node is taken away.
    """

    def __init__(self, most: int, idle_seconds: float):
        # Sockets lie below this folder, and their paths may be 107 characters long.
        self._folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        port = _free_port()
        self.address = f"{ray.util.get_node_ip_address()}:{port}"
        self._most, self._idle_seconds = most, idle_seconds
        self._config = self._folder / "autoscaler.json"
        self._allow(most)
        self._log = self._folder / "head.log"
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
        with self._log.open("w") as log:
            self._head = subprocess.Popen(
                [
                    *(sys.executable, "-c", RAY, "start", "--head", "--block"),
                    *(f"--port={port}", f"--autoscaling-config={self._config}"),
                    *("--num-cpus=0", "--num-gpus=0", "--object-store-memory=80000000"),
                    *("--include-dashboard=false", "--dashboard-agent-listen-port=0"),
                    "--include-log-monitor=false",
                    *(f"--ray-client-server-port={_free_port()}", f"--temp-dir={self._folder}"),
                ],
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    **ENVIRONMENT,
                    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                },
            )
        self._gcs: Any = None

    def _allow(self, most: int) -> None:
        """Write the autoscaler's config, which it reads anew with each of its updates."""
        written = self._folder / "autoscaler.new"
        written.write_text(json.dumps(_config(self.address, most, self._idle_seconds)))
        written.replace(self._config)

    @contextmanager
    def at_most(self, most: int) -> Iterator[None]:
        """For the time of a block, no more nodes come than this."""
        self._allow(most)
        try:
            yield
        finally:
            self._allow(self._most)

    def wait_until_up(self) -> None:
        """Return once its autoscaler works."""
        self.wait_until(self._is_up, "an autoscaler")

    def _is_up(self) -> bool:
        assert self._head.poll() is None, self._log.read_text()
        try:
            self._gcs = self._gcs or GcsClient(self.address)
            return bool(self._status().autoscaling_state.autoscaler_state_version)
        except ray.exceptions.RayError:
            return False

    def _status(self) -> Any:
        reply = GetClusterStatusReply()
        reply.ParseFromString(self._gcs.get_cluster_status(timeout_s=10))
        return reply

    def nodes(self) -> list[str]:
        """The nodes beside the head that are there."""
        states = self._status().cluster_resource_state.node_states
        found = [node.node_id.hex() for node in states if node.status in HERE]
        return [node for node in found if node != HEAD]

    def demand(self) -> int:
        """How many places are asked for and not there."""
        state = self._status().cluster_resource_state
        return len(state.pending_gang_resource_requests) + len(state.pending_resource_requests)

    def wait_until(self, happens: Callable[[], bool], what: str) -> float:
        """Return once something happens; says after how many seconds."""
        began = time.monotonic()
        while not happens():
            assert time.monotonic() - began < DEADLINE, f"not seen: {what}"
            time.sleep(0.1)
        return time.monotonic() - began

    def wait_until_empty(self) -> float:
        """Return once all nodes have been taken away; says after how many seconds."""
        return self.wait_until(lambda: not self.nodes() and not self.demand(), "no nodes")

    def shutdown(self) -> None:
        """End the head and every process of its nodes."""
        self._head.kill()  # asked to end, it would take its time for nothing
        self._head.wait()
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self._folder) in word for word in process.info["cmdline"] or ()):
                process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}


def _config(address: str, most: int, idle_seconds: float) -> dict[str, Any]:
    resources = {"CPU": 1, "GPU": 1, "object_store_memory": 80_000_000}
    return {
        "cluster_name": "fake",
        "max_workers": most,
        "idle_timeout_minutes": idle_seconds / 60,
        "upscaling_speed": 100,
        "provider": {
            "type": "external",
            "module": "light_nodes.LightNodeProvider",
            "gcs_address": address,
            "head_node_id": HEAD,
            "launch_multiple": True,
            "disable_node_updaters": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {
                "resources": resources,
                "node_config": {},
                "min_workers": 0,
                "max_workers": most,
            },
        },
        # A provider of one's own has no defaults.
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
