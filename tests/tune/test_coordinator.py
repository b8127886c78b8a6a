"""The coordinator understands a sweep's paths as the command did that was given."""

from __future__ import annotations

import ray

from manta.tune.coordinator import open_coordinator
from manta.tune.sweep_plan import Outline

SPACE = """
from pathlib import Path
space = {
    "corpus": tune.grid_search(["shards", "other"]),
    "wandb.group": Path("group.txt").read_text(),
}
"""


def test_relative_paths_are_those_of_the_command(sweep, tmp_path, ray_local):
    """Ray was started in another folder, in which its processes begin."""
    (tmp_path / "group.txt").write_text("mine")
    sections = {"sweep": {"name": "try", "storage": str(tmp_path / "runs")}}
    config = sweep(SPACE, **sections).config
    with open_coordinator(Outline(config), "an-id") as coordinator:
        legs = [ray.get(coordinator.begin.remote(name))[0] for name in ("t000", "t001")]
    assert [leg.config.corpus for leg in legs] == [
        str(tmp_path / "shards"),
        str(tmp_path / "other"),
    ]
    assert legs[0].config.wandb.group == "mine"
