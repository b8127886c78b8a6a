"""A real Ray cluster of several nodes on this machine, and runs on it with faults."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chaos_driver
import plain_runs
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster
from tiny_config import STEP, run_config

from manta.config import RunConfig
from manta.elastic.preflight import check

STEPS = 40
DEADLINE = 120.0
Fault = dict[str, Any]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., Any]) -> Path:
    """A few thousand random tokens in short documents."""
    folder = tmp_path_factory.mktemp("chaos-corpus")
    splits = {"train": [[5, 9, 30] * 20, [17] * 60], "validation": [[11] * 30]}
    make_corpus(folder, splits, vocab_size=61)
    return folder


class Nodes:
    """A cluster whose head has no CPUs, so that each worker sits on a node of its own."""

    def __init__(self, folder: Path):
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": str(folder)}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes: list[Any] = []

    def have(self, count: int) -> None:
        """Add or take away nodes, in good order, until there are `count`."""
        while len(self.nodes) < count:
            self.add()
        while len(self.nodes) > count:
            self.cluster.remove_node(self.nodes.pop())

    def add(self) -> None:
        """A node comes."""
        self.nodes.append(self.cluster.add_node(num_cpus=1))

    def kill(self) -> str:
        """The newest node goes without a word; returns its id."""
        node = self.nodes.pop()
        self.cluster.remove_node(node, allow_graceful=False)
        return str(node.node_id)

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
    """The process that trains; it can be killed, and started again."""

    def __init__(self, address: str):
        self._address = address
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Have one that is ready."""
        if self._process is not None and self._process.poll() is None:
            return
        self._process = subprocess.Popen(
            [sys.executable, chaos_driver.__file__, self._address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )
        assert self._answer() == "ready"

    def train(self, config: dict[str, Any]) -> None:
        """Begin to train."""
        self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(config) + "\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """How the run ended."""
        answer: dict[str, Any] = json.loads(self._answer())
        return answer

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
        assert line, "the driver died or hung"
        return line.strip()


class Run:
    """A run under test."""

    def __init__(self, driver: Driver, config: dict[str, Any]):
        self.driver, self.config = driver, config
        self.dir = Path(config["run"]["storage"]) / config["run"]["name"]
        self.answer: dict[str, Any] | None = None

    def begin(self) -> Run:
        """Begin to train, or go on."""
        self.driver.train(self.config)
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

    def reasons(self) -> list[str]:
        """Why each group but the last ended."""
        return [group["reason"] for group in self.record()["groups"][:-1]]

    def notes(self) -> str:
        """What people were told."""
        return "\n".join(event["message"] for event in self.record()["events"])


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """The cluster that all chaos tests share."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    found = Nodes(folder)
    try:
        yield found
    finally:
        found.cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def driver(nodes: Nodes) -> Iterator[Driver]:
    """The driver that all chaos tests share, unless they kill it."""
    found = Driver(nodes.cluster.address)
    try:
        yield found
    finally:
        found.kill()


RunBuilder = Callable[..., Run]


@pytest.fixture
def run(tmp_path: Path, corpus: Path, driver: Driver) -> RunBuilder:
    """Builds a run from faults and changed sections."""

    def build(*faults: Fault, steps: int = STEPS, **sections: Any) -> Run:
        changes: dict[str, Any] = {
            "schedule": {"horizon": steps * STEP},
            "checkpoint": {"every": 10 * STEP},
            "scaling": {"min": 2, "resources_per_worker": {"CPU": 1}, "settle": 0.5},
            "wandb": {"mode": "disabled"},
        }
        for name, keys in sections.items():
            changes[name] = {**changes.get(name, {}), **keys}
        config = run_config(tmp_path, corpus, **changes)
        return Run(driver, {**config, "faults": list(faults)})

    return build


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, corpus: Path
) -> Callable[[int, int], dict[int, float]]:
    """Losses by step of a run without faults, by world size and number of steps."""
    known: dict[tuple[int, int], dict[int, float]] = {}

    def losses(world_size: int, steps: int = STEPS) -> dict[int, float]:
        if (world_size, steps) not in known:
            storage = tmp_path_factory.mktemp("undisturbed")
            config = run_config(storage, corpus, schedule={"horizon": steps * STEP})
            checked = check(RunConfig.model_validate(config))
            known[world_size, steps] = plain_runs.losses(plain_runs.train(checked, world_size))
        return known[world_size, steps]

    return losses
