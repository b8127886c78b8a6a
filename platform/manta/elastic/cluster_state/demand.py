"""Demand for workers that the cluster has no room for, so that an autoscaler starts nodes.

A pending placement group is demand. A run requests its own (`slots`); a sweep with more to start
than there is room for requests the rest here, and leaves what comes to the runs.
"""

from __future__ import annotations

from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)


def bundle_of(resources: dict[str, float]) -> dict[str, float]:
    """The placement group's bundle for one worker.

    A bundle must request something, so a worker without needs requests almost nothing.
    """
    return {name: amount for name, amount in resources.items() if amount > 0} or {"CPU": 0.001}


class Demand:
    """Pending placement groups of this process; Ray removes them when the process ends.

    Args:
        resources: Ray resources that one worker needs.
    """

    def __init__(self, resources: dict[str, float]):
        self._bundle = bundle_of(resources)
        self._pending: list[PlacementGroup] = []

    def have(self, count: int) -> None:
        """Keep `count` requests pending; granted ones are given back for others to take."""
        for group in [g for g in self._pending if placement_group_table(g)["state"] == "CREATED"]:
            self._drop(group)
        while len(self._pending) > max(count, 0):
            self._drop(self._pending[-1])
        while len(self._pending) < count:
            self._pending.append(placement_group([self._bundle], strategy="PACK"))

    def _drop(self, group: PlacementGroup) -> None:
        self._pending.remove(group)
        remove_placement_group(group)
