"""What is wished for is pending, what comes is left to others, and nothing stays behind."""

from __future__ import annotations

import time
from collections import Counter

from ray.util.placement_group import placement_group_table

from manta.elastic.cluster_state.demand import Demand

NOWHERE = {"CPU": 0.0, "GPU": 16.0}
SECONDS = 20.0


def states(bundle: dict[str, float]) -> Counter[str]:
    """The states of the placement groups with that bundle."""
    groups = placement_group_table().values()
    return Counter(g["state"] for g in groups if list(g["bundles"].values()) == [bundle])


def test_as_many_are_pending_as_are_wished_for(ray_local: None) -> None:
    wish = Demand(NOWHERE)
    for count in (3, 1, 2, -1):
        wish.have(count)
        assert states({"GPU": 16.0})["PENDING"] == max(count, 0)


def test_what_came_is_given_back(ray_local: None) -> None:
    bundle = {"CPU": 0.25}
    wish = Demand(bundle)
    wish.have(2)
    deadline = time.monotonic() + SECONDS
    while states(bundle)["CREATED"] < 2:
        assert time.monotonic() < deadline, states(bundle)
        time.sleep(0.01)
    wish.have(0)
    assert states(bundle)["CREATED"] == 0
