"""Places that are wanted and not there, so that an autoscaler brings them.

A pending placement group is demand. A run asks for its own (`slots`); whoever has more to start
than there is room for wishes for the rest here, and leaves what comes to those who train.
"""

from __future__ import annotations

from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)


def bundle_of(resources: dict[str, float]) -> dict[str, float]:
    """What a placement group asks for, for one worker.

    It must ask for something; a worker without needs fits anywhere.
    """
    return {name: amount for name, amount in resources.items() if amount > 0} or {"CPU": 0.001}


class Demand:
    """Wanted places, in the process that wants them: they go when it goes.

    Args:
        resources: what one worker needs.
    """

    def __init__(self, resources: dict[str, float]):
        self._bundle = bundle_of(resources)
        self._pending: list[PlacementGroup] = []

    def have(self, count: int) -> None:
        """Want as many; what came since the last call is given back, for others to take."""
        for group in [g for g in self._pending if placement_group_table(g)["state"] == "CREATED"]:
            self._drop(group)
        while len(self._pending) > max(count, 0):
            self._drop(self._pending[-1])
        while len(self._pending) < count:
            self._pending.append(placement_group([self._bundle], strategy="PACK"))

    def _drop(self, group: PlacementGroup) -> None:
        self._pending.remove(group)
        remove_placement_group(group)
