"""Runs and sweeps on a cluster whose nodes come and go with them, by Ray's own autoscaler."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import plain_runs
import pytest
from autoscaling import HEAD, AutoscaledCluster
from command import copy_of_manta
from faulty_cluster import Driver, Run
from tiny_config import SEQ_LEN, STEP, run_config, write_yaml

from manta.config import RunConfig
from manta.elastic.checks.preflight import check
from manta.elastic.cluster_state.ray_data_actors import RESIDENTS
from manta.record.sweep_state import read_sweep
from manta.record.verify_run import verify

STEPS = 40
MOST = 2  # nodes beside the head
# Said to be so slow that growth pays as long as there is anything left to train.
THROUGHPUT = 1
# The steps before which the groups stand, first to last, until the test lets them go: each after
# a step of its own, and further on than the group before it can have come once it was let go.
HELD = (2, 6, 10, 14, 18)
HOLDS = [
    {"kind": "hold", "step": step, "attempt": attempt, "until": f"go-{attempt}"}
    for attempt, step in enumerate(HELD, 1)
]
# What is told of a group that is to leave for a larger one, or for a smaller one.
REPLACED = re.compile(r"^growing from |workers: other runs need the rest$", re.MULTILINE)


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


def standing(*runs: Run) -> bool:
    """Whether the newest group of each run stands, and is not about to be replaced.

    One that is held can't leave, so that those that are to be replaced are let go here.
    """
    found = True
    for run in runs:
        record = run.record()
        groups = len(record.get("groups", []))
        told = len(REPLACED.findall(run.notes())) if groups else 0
        if 0 < groups <= told:
            (run.dir / f"go-{groups}").touch()
        found = found and told < groups
    return found


def has_all(run: Run) -> bool:
    """Whether a group with a worker on each node stands; others are let go as `standing` says."""
    return standing(run) and run.record()["groups"][-1]["world_size"] == MOST


def let_go(run: Run) -> None:
    """Hold no group of the run any more."""
    for hold in HOLDS:
        (run.dir / str(hold["until"])).touch()


def test_nodes_come_for_a_run_and_go_after_it(
    cluster: AutoscaledCluster, driver: Driver, tmp_path: Path, corpus: Path
) -> None:
    wanted = config(tmp_path, corpus, min=1, max=MOST, spares=0)
    with cluster.at_most(1):
        run = Run(driver, {**wanted, "faults": HOLDS}).begin()
        asked = cluster.wait_until(lambda: cluster.demand() == MOST, "demand for all workers")
        came = cluster.wait_until(lambda: len(cluster.nodes()) > 0, "a node")
        run.groups_reach(1)
    grew = cluster.wait_until(lambda: has_all(run), "a worker on each node")
    let_go(run)
    run.end()
    gone = cluster.wait_until_empty()
    print(f"\nasked {asked:.1f} s, node {came:.1f} s, grown {grew:.1f} s later, ", end="")
    print(f"gone {gone:.1f} s after the end")

    sizes = list(run.sizes().values())
    assert (sizes[0], sizes[-1]) == (1, MOST), "it started on what was there, and grew"
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
    run.reach(1)
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
    driver.hear("the autoscaler has no node type for such a worker")
    assert cluster.demand() == 2
    driver.kill()
    cluster.wait_until_empty()


def test_a_sweep_has_nodes_brought_and_uses_what_trials_free(
    cluster: AutoscaledCluster, driver: Driver, tmp_path: Path, corpus: Path
) -> None:
    base = config(tmp_path, corpus, min=1)
    base["schedule"]["lr"] = {"name": "wsd", "peak": 1e-2, "warmup": "10%", "decay": "20%"}
    base["faults"] = HOLDS
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
    process = copy_of_manta("sweep", str(sweep), "--address", cluster.address)
    came = cluster.wait_until(lambda: len(cluster.nodes()) == MOST, "all nodes")
    folder = tmp_path / "runs" / "lengths"
    short, long = (
        Run(driver, {"run": {"storage": str(folder), "name": name}}) for name in ("t000", "t001")
    )
    cluster.wait_until(lambda: standing(short, long), "both trials train")
    let_go(short)
    cluster.wait_until(lambda: has_all(long), "a worker of the long trial on each node")
    let_go(long)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    gone = cluster.wait_until_empty()
    print(f"\nall nodes after {came:.1f} s, gone {gone:.1f} s after the end of the sweep")

    trials = {trial.name: trial for trial in read_sweep(folder).trials}
    assert {trial.status for trial in trials.values()} == {"finished"}
    assert trials[short.dir.name].end_tokens < trials[long.dir.name].end_tokens
    assert list(short.sizes().values())[-1] < MOST, "the other has a place, too"
    assert list(long.sizes().values())[-1] == MOST, "it has all once the short one has ended"
    for run in (short, long):
        verify(run.dir)
