"""A real Ray cluster of several nodes on this machine, and runs on it with faults."""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import chaos_driver
import copied
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from manta.state.checkpoint_files import read_state, whole

DEADLINE = 300.0
# A process a node that passes on what workers print, for a twentieth of a core: nobody listens.
QUIET = {"include_log_monitor": False}


class Nodes:
    """A cluster whose head has no CPUs, so that each worker sits on a node of its own."""

    def __init__(self, folder: Path):
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": str(folder), **QUIET}
        self._folder = folder
        # Ray's Cluster notes its address in this folder, wherever it has its own, and makes none.
        (Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray").mkdir(parents=True, exist_ok=True)
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes: list[Any] = []

    def have(self, count: int) -> None:
        """Add or take away nodes, in good order, until there are `count`."""
        while len(self.nodes) < count:
            self.add()
        while len(self.nodes) > count:
            self.cluster.remove_node(self.nodes.pop())

    def add(self) -> None:
        """A node comes. It says that it has a GPU: placing goes by what is said."""
        self.nodes.append(self.cluster.add_node(num_cpus=1, num_gpus=1, **QUIET))

    def kill(self) -> str:
        """The newest node goes without a word; returns its id."""
        node = self.nodes.pop()
        self.cluster.remove_node(node, allow_graceful=False)
        return str(node.node_id)

    def planned_faults(self) -> Counter[str]:
        """The faults of configs that happened so far on this cluster, from its workers' logs."""
        found = Counter[str]()
        for log in self._folder.glob("session_*/logs/worker-*.out"):
            if log.parent.parent.is_symlink():
                continue
            for line in log.read_text(errors="replace").splitlines():
                if line.startswith("fault: "):
                    found[line.removeprefix("fault: ").rpartition(" ")[0]] += 1
        return found

    def drain(self, seconds: float) -> str:
        """The newest node is told that it goes in `seconds`; returns its id."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        node = self.nodes.pop()
        why = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int((time.time() + seconds) * 1000)
        accepted = GcsClient(address=self.cluster.address).drain_node(
            node.node_id, why, "taken away", deadline
        )
        assert accepted[0], accepted
        return str(node.node_id)


class Driver:
    """The process that trains; it can be killed, and started again.

    Args:
        address: of the cluster.
        log: where it writes what a person would see.
        environment: what is changed in it.
    """

    def __init__(self, address: str, log: Path, environment: Mapping[str, str] | None = None):
        self._address, self._log = address, log
        self._environment = {"RAY_AUTH_MODE": "disabled", **(environment or {})}
        self._process: copied.Copied | None = None

    def start(self) -> None:
        """Have one that is ready."""
        if self._process is not None and self._process.poll() is None:
            return
        with self._log.open("a") as log:
            self._process = copied.start(
                chaos_driver.main,
                self._address,
                environment={**os.environ, **self._environment},
                reads=True,
                stderr=log,
            )
        assert self._answer() == "ready"

    def train(self, config: dict[str, Any], pooled: bool) -> None:
        """Begin to train; if `pooled`, with workers that this driver's other runs use too."""
        self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"config": config, "pooled": pooled}) + "\n")
        self._process.stdin.flush()

    def has_result(self, seconds: float) -> bool:
        """Whether the run ends within so many seconds."""
        assert self._process is not None
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def result(self) -> dict[str, Any]:
        """How the run ended."""
        answer: dict[str, Any] = json.loads(self._answer())
        return answer

    def hear(self, words: str) -> None:
        """Return once it has said that."""
        deadline = time.time() + DEADLINE
        while words not in self._log.read_text():
            assert time.time() < deadline, f"not said: {words}"
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        watch = threading.Timer(DEADLINE, self._process.kill)
        watch.start()
        line = self._process.stdout.readline()
        watch.cancel()
        assert line, f"the driver died or hung:\n{self._log.read_text()[-3000:]}"
        return line.strip()


class Run:
    """A run under test; if it is `pooled`, its driver's runs share their workers."""

    def __init__(self, driver: Driver, config: dict[str, Any], pooled: bool = False):
        self.driver, self.config, self.pooled = driver, config, pooled
        self.dir = Path(config["run"]["storage"]) / config["run"]["name"]
        self.answer: dict[str, Any] | None = None

    def begin(self) -> Run:
        """Begin to train, or go on."""
        self.driver.train(self.config, self.pooled)
        return self

    def end(self, status: str = "finished") -> Run:
        """Wait for the end, which must be that one."""
        self.answer = self.driver.result()
        assert self.answer["status"] == status, self.answer
        return self

    def reach(self, step: int) -> None:
        """Return once the history has that step."""
        deadline = time.time() + DEADLINE
        while not any(row["step"] >= step for row in self.rows()):
            assert time.time() < deadline, f"step {step} was not reached"
            time.sleep(0.02)

    def groups_reach(self, count: int) -> None:
        """Return once that many worker groups have begun to train."""
        deadline = time.time() + DEADLINE
        while len(self.record().get("groups", [])) < count:
            assert time.time() < deadline, f"no {count} groups: {self.record().get('groups')}"
            time.sleep(0.02)

    def is_told(self, words: str, count: int = 1) -> None:
        """Return once people have been told that so often."""
        deadline = time.time() + DEADLINE
        while self.notes().count(words) < count:
            assert time.time() < deadline, f"not told {count} times: {words}"
            time.sleep(0.02)

    def rows(self) -> list[dict[str, Any]]:
        """The history so far, without a row that is being written."""
        try:
            text = (self.dir / "metrics.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def record(self) -> dict[str, Any]:
        """What `run.json` says."""
        try:
            found: dict[str, Any] = json.loads((self.dir / "run.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def losses(self) -> dict[int, float]:
        """Loss by step; each step must be there once."""
        logged = [row for row in self.rows() if "loss" in row]
        assert [row["step"] for row in logged] == list(range(1, len(logged) + 1))
        return {row["step"]: row["loss"] for row in logged}

    def sizes(self) -> dict[int, int]:
        """World size by step."""
        return {row["step"]: row["world_size"] for row in self.ledger()}

    def ledger(self) -> list[dict[str, Any]]:
        """The ledger's rows."""
        rows: list[dict[str, Any]] = pq.read_table(self.dir / "ledger.parquet").to_pylist()
        return rows

    def starts(self) -> list[tuple[str, int]]:
        """What each group but the first went on from, and its step."""
        return [(group["source"], group["step"]) for group in self.record()["groups"][1:]]

    def again(self) -> list[int]:
        """How many steps each group but the first trained again."""
        groups = self.record()["groups"]
        return [a["last_step"] - b["step"] for a, b in pairwise(groups)]

    def checkpoints(self) -> list[int]:
        """The steps of the whole checkpoints."""
        return [read_state(path).step for path in whole(self.dir / "checkpoints")]

    def reasons(self) -> list[str]:
        """Why each group but the last ended."""
        return [group["reason"] for group in self.record()["groups"][:-1]]

    def notes(self) -> str:
        """What people were told."""
        return "\n".join(event["message"] for event in self.record()["events"])
