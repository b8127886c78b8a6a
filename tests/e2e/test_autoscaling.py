"""Runs and sweeps on a cluster whose nodes come and go with them, by Ray's own autoscaler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plain_runs
import pytest
from autoscaling import HEAD, AutoscaledCluster
from faulty_cluster import Driver, Run
from tiny_config import SEQ_LEN, STEP, run_config, write_yaml

from manta.config import RunConfig
from manta.elastic.preflight import check
from manta.elastic.residents import RESIDENTS
from manta.track.sweep_state import read_sweep
from manta.track.verify import verify

STEPS = 40
MOST = 3  # nodes beside the head
# Said to be so slow that growth pays as long as there is anything left to train.
THROUGHPUT = 1
# A group of fewer workers than there could be stands before this step until a test lets it go.
HELD = 6


@pytest.fixture(scope="module")
def cluster() -> Iterator[AutoscaledCluster]:
    found = AutoscaledCluster(most=MOST, idle_seconds=6.0)
    try:
        found.wait_until_up()
        yield found
    finally:
        found.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    texts = {"train": [[5, 9, 30] * 20, [17] * 60], "validation": [[11] * 30]}
    make_corpus(folder, texts, vocab_size=61)
    return folder


@pytest.fixture(scope="module")
def driver(
    cluster: AutoscaledCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driver]:
    found = Driver(cluster.address, tmp_path_factory.mktemp("driver") / "log")
    try:
        yield found
    finally:
        found.kill()


def config(folder: Path, corpus: Path, **scaling: Any) -> dict[str, Any]:
    return run_config(
        folder / "runs",
        corpus,
        schedule={"horizon": STEPS * STEP},
        checkpoint={"every": 10 * STEP},
        scaling={
            # Without GPUs, so that workers are copies: two cores start a dozen of them here.
            "resources_per_worker": {"CPU": 1},
            "settle": 1.0,
            "spares": 1,
            "throughput": THROUGHPUT,
            **scaling,
        },
        wandb={"mode": "disabled"},
    )


# One for each group that may have to grow before it has as many workers as there can be.
HOLDS = [
    {"kind": "hold", "step": HELD, "attempt": attempt, "until": f"go-{attempt}"}
    for attempt in range(1, MOST)
]
# What a group has measured of itself by then: it tells of its steps twice a second.
MEASURED = {"kind": "slow", "step": HELD - 1, "seconds": 0.6, "attempt": None}


def let_grow(cluster: AutoscaledCluster, run: Run) -> float:
    """Let each held group go once it has been told to grow; returns the seconds until the last."""
    began = time.monotonic()
    for hold in HOLDS:
        run.groups_reach(hold["attempt"])
        if (size := run.record()["groups"][-1]["world_size"]) < MOST:
            growing = f"growing from {size} to "
            cluster.wait_until(lambda text=growing: text in run.notes(), growing)
        (run.dir / hold["until"]).touch()
    return time.monotonic() - began


def let_both_begin(cluster: AutoscaledCluster, *trials: Run) -> None:
    """Return once both train; one that began on all nodes, alone, is let go to make room.

    A held group answers nobody, so it can't give a worker back before its hold has ended.
    """

    def both() -> bool:
        for trial in trials:
            groups = trial.record().get("groups", [])
            if groups and groups[-1]["world_size"] == MOST:
                (trial.dir / f"go-{len(groups)}").touch()
        return all(trial.record().get("groups") for trial in trials)

    cluster.wait_until(both, "both trials train")


def test_nodes_come_for_a_run_and_go_after_it(
    cluster: AutoscaledCluster, driver: Driver, tmp_path: Path, corpus: Path
) -> None:
    wanted = config(tmp_path, corpus, min=1, max=MOST, spares=0)
    run = Run(driver, {**wanted, "faults": [MEASURED, *HOLDS]}).begin()
    asked = cluster.wait_until(lambda: cluster.demand() == MOST, "demand for all workers")
    came = cluster.wait_until(lambda: len(cluster.nodes()) > 0, "a node")
    grew = let_grow(cluster, run)
    run.end()
    gone = cluster.wait_until_empty()
    print(f"\nasked {asked:.1f} s, node {came:.1f} s, grown {grew:.1f} s later, ", end="")
    print(f"gone {gone:.1f} s after the end")

    sizes = list(run.sizes().values())
    assert sizes[0] < sizes[-1] == MOST, "it started on what was there, and grew"
    assert verify(run.dir).consumed.steps == STEPS
    alone = check(RunConfig.model_validate({**wanted, "run": elsewhere(tmp_path)}))
    assert run.losses() == pytest.approx(plain_runs.losses(plain_runs.train(alone, 1)), rel=1e-5)


def elsewhere(folder: Path) -> dict[str, Any]:
    return {"name": "alone", "storage": str(folder / "alone"), "seed": 3}


def test_a_killed_driver_holds_no_node(
    cluster: AutoscaledCluster, driver: Driver, tmp_path: Path, corpus: Path
) -> None:
    """Nor does what reading has started: the steps are so large that it is by Ray Data."""
    wanted = config(tmp_path, corpus, min=1, max=2)
    wanted["schedule"] = {"horizon": 200 * 4096 * SEQ_LEN, "lr": 1e-3, "batch": 4096}
    wanted["train"]["micro_batch"] = 1024
    run = Run(driver, wanted).begin()
    run.reach(4)
    residents = actors_on(cluster.address)
    driver.kill()
    gone = cluster.wait_until_empty()
    print(f"\nnodes and demand of a killed driver were gone after {gone:.1f} s")
    assert residents.keys() & RESIDENTS
    assert set(residents.values()) == {HEAD}, "an actor keeps its node"


def actors_on(address: str) -> dict[str, str]:
    """The named actors of the cluster, and their nodes; asked by another process."""
    program = (
        "import ray, sys, json\n"
        "ray.init(sys.argv[1], log_to_driver=False)\n"
        "actors = ray._private.state.actors().values()\n"
        "alive = [actor for actor in actors if actor['Name'] and actor['State'] == 'ALIVE']\n"
        "print(json.dumps({actor['Name']: actor['Address']['NodeID'] for actor in alive}))\n"
    )
    command = [sys.executable, "-c", program, address]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = json.loads(said.splitlines()[-1])
    return found


def test_what_no_node_can_hold_is_told(
    cluster: AutoscaledCluster, driver: Driver, tmp_path: Path, corpus: Path
) -> None:
    wanted = config(tmp_path, corpus, min=2, resources_per_worker={"CPU": 16})
    Run(driver, wanted).begin()
    driver.hear("waiting for 2 workers of 16 CPU each: there is room for none")
    driver.hear("the autoscaler has no node type for one")
    assert cluster.demand() == 2
    driver.kill()
    cluster.wait_until_empty()


def test_a_sweep_has_nodes_brought_and_uses_what_trials_free(
    cluster: AutoscaledCluster, driver: Driver, tmp_path: Path, corpus: Path
) -> None:
    base = config(tmp_path, corpus, min=1)
    base["schedule"]["lr"] = {"name": "wsd", "peak": 1e-2, "warmup": "10%", "decay": "20%"}
    base["faults"] = [MEASURED, *HOLDS]
    write_yaml(tmp_path / "run.yaml", base)
    lengths = f'{{"schedule.horizon": tune.grid_search([{20 * STEP}, {60 * STEP}])}}'
    (tmp_path / "space.py").write_text(f"from ray import tune\n\nspace = {lengths}\n")
    sweep = write_yaml(
        tmp_path / "sweep.yaml",
        {
            "sweep": {"name": "lengths", "storage": str(tmp_path / "runs")},
            "base": "run.yaml",
            "space": "./space.py",
            "metric": "loss",
            "workers": {"min": 1, "max": MOST},
            "concurrent": 2,
        },
    )
    command = [sys.executable, "-m", "manta.cli", "sweep", str(sweep)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(
        [*command, "--address", cluster.address],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    came = cluster.wait_until(lambda: len(cluster.nodes()) == MOST, "all nodes")
    folder = tmp_path / "runs" / "lengths"
    short, long = (
        Run(driver, {"run": {"storage": str(folder), "name": name}}) for name in ("t000", "t001")
    )
    let_both_begin(cluster, short, long)
    for hold in HOLDS:
        (short.dir / hold["until"]).touch()
    let_grow(cluster, long)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    gone = cluster.wait_until_empty()
    print(f"\nall nodes after {came:.1f} s, gone {gone:.1f} s after the end of the sweep")

    trials = {trial.name: trial for trial in read_sweep(folder).trials}
    assert {trial.status for trial in trials.values()} == {"finished"}
    assert trials[short.dir.name].end_tokens < trials[long.dir.name].end_tokens
    assert list(short.sizes().values())[-1] < MOST, "the other has a place, too"
    assert max(long.sizes().values()) == MOST, "it has all once the short one has ended"
    for run in (short, long):
        verify(run.dir)
