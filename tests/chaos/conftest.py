"""The cluster that the chaos tests share, and what they build runs with."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plain_runs
import pytest
from faulty_cluster import Driver, Nodes, Run
from tiny_config import STEP, run_config

from manta.config import RunConfig
from manta.elastic.checks.preflight import check

STEPS = 40
MOST_STEPS = {1: 50, 2: 100}  # of runs of so many workers
Fault = dict[str, Any]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., Any]) -> Path:
    """A few thousand random tokens in short documents of two sources."""
    folder = tmp_path_factory.mktemp("chaos-corpus")
    splits = {"train": [[5, 9, 30] * 20, [17] * 60], "validation": [[11] * 30]}
    make_corpus(folder, splits, vocab_size=61, sources=("short", "even"))
    return folder


@pytest.fixture(scope="package")
def nodes(copies: None) -> Iterator[Nodes]:
    """The cluster that all chaos tests share; gone when the tests of other folders run."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    found = Nodes(folder)
    try:
        yield found
    finally:
        found.cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="package")
def driver(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """The driver that most chaos tests share."""
    found = Driver(nodes.cluster.address, tmp_path_factory.mktemp("driver") / "log")
    try:
        yield found
    finally:
        found.kill()


RunBuilder = Callable[..., Run]


@pytest.fixture
def run(tmp_path: Path, corpus: Path, driver: Driver) -> RunBuilder:
    """Builds a run from faults and changed sections.

    Its workers are those of the run before, as far as they live, unless it is not `pooled`.
    """

    def build(*faults: Fault, steps: int = STEPS, pooled: bool = True, **sections: Any) -> Run:
        changes: dict[str, Any] = {
            "schedule": {"horizon": steps * STEP},
            "checkpoint": {"every": 10 * STEP},
            "scaling": {"min": 2, "resources_per_worker": {"CPU": 1}, "settle": 0.5},
            "wandb": {"mode": "disabled"},
        }
        for name, keys in sections.items():
            changes[name] = {**changes.get(name, {}), **keys}
        config = run_config(tmp_path, corpus, **changes)
        return Run(driver, {**config, "faults": list(faults)}, pooled)

    return build


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, corpus: Path
) -> Callable[..., dict[int, float]]:
    """Losses by step of a run without faults, by world size, number of steps and its data.

    The learning rate is constant, so a short run is the beginning of a long one.
    """
    known: dict[tuple[int, str], dict[int, float]] = {}

    def losses(
        world_size: int, steps: int = STEPS, data: dict[str, Any] | None = None
    ) -> dict[int, float]:
        which = world_size, repr(data)
        if which not in known:
            storage = tmp_path_factory.mktemp("undisturbed")
            config = run_config(
                storage,
                corpus,
                schedule={"horizon": MOST_STEPS[world_size] * STEP},
                data=data or {},
            )
            checked = check(RunConfig.model_validate(config))
            known[which] = plain_runs.losses(plain_runs.train(checked, world_size))
        return {step: loss for step, loss in known[which].items() if step <= steps}

    return losses
