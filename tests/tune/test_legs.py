"""What the legs of a sweep take of a cluster themselves: nothing that a worker could need."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.util.placement_group import placement_group, remove_placement_group

from manta.tune.run_sweep import LEG_BUNDLE

DEADLINE = 120.0


def holds_a_cpu_until_all_do(config: dict[str, Any]) -> dict[str, Any]:
    """Stands for a leg: it has a place for a worker, and keeps it while others look for theirs."""
    folder = Path(config["folder"])
    place = placement_group([{"CPU": 1}])
    if place.wait(DEADLINE):
        (folder / config["name"]).touch()
    until = time.time() + DEADLINE
    while len(list(folder.iterdir())) < 2 and time.time() < until:
        time.sleep(0.05)
    remove_placement_group(place)
    return {"together": len(list(folder.iterdir())) == 2}


def test_legs_leave_whole_cpus_to_their_workers(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, results = tmp_path / "places", tmp_path / "results"
    places.mkdir()
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "1")
    tuner = tune.Tuner(
        tune.with_resources(holds_a_cpu_until_all_do, LEG_BUNDLE),
        param_space={"name": tune.grid_search(["one", "two"]), "folder": str(places)},
        run_config=tune.RunConfig(storage_path=str(results), verbose=0),
    )
    found = tuner.fit()
    assert [result.metrics["together"] for result in found] == [True, True]
