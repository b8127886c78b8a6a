"""The places that a run holds in the cluster, one for each worker.

A slot is a placement group of a single bundle: it outlives the workers in it, so that a
worker that died is replaced without asking the cluster again, and a slot that is asked for
and not yet there is what makes an autoscaler act and what tells at once that a node came.
"""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from manta.elastic.answers import arrived
from manta.elastic.wish import bundle_of


@dataclass(frozen=True)
class Slot:
    """A place for one worker: where it is, and the ids of the accelerators in it."""

    id: str
    node: str
    devices: tuple[str, ...] = ()


@dataclass
class _Holding:
    """A placement group, and the actor that occupies its accelerators to learn their ids."""

    group: PlacementGroup
    slot: Slot | None = None
    anchor: ActorHandle | None = None
    devices: Any = field(default=None, repr=False)


class _Anchor:
    """Occupies a slot's accelerators; Ray gives their ids to nobody else meanwhile."""

    def devices(self) -> tuple[str, ...]:
        """Ids of the accelerators, as CUDA_VISIBLE_DEVICES wants them."""
        return tuple(map(str, ray.get_runtime_context().get_accelerator_ids()["GPU"]))


class Slots:
    """The slots of a run, in the process that owns them: they go when it goes.

    Args:
        resources: what one worker needs.
        owner: a name that no other run in the cluster has, for `release_all_of`.
    """

    def __init__(self, resources: dict[str, float], owner: str):
        self._owner, self._asked = owner, 0
        self._resources = bundle_of(resources)
        self._held: dict[str, _Holding] = {}

    @property
    def ready(self) -> list[Slot]:
        """The slots that are there, neighbours side by side."""
        found = [h.slot for h in self._held.values() if h.slot is not None]
        return sorted(found, key=lambda s: (s.node, s.devices, s.id))

    @property
    def pending(self) -> int:
        """How many are asked for and not there."""
        return len(self._held) - len(self.ready)

    def request(self, total: int) -> None:
        """Have `total` slots, held and asked for together; surplus requests are withdrawn."""
        for holding in [h for h in self._held.values() if h.slot is None]:
            if len(self._held) <= total:
                break
            self._release(holding)
        while len(self._held) < total:
            group = placement_group([self._resources], strategy="PACK", name=self._name())
            self._held[group.id.hex()] = _Holding(group)

    def _name(self) -> str:
        self._asked += 1
        return f"{self._owner}/{self._asked}"

    def keep(self, wanted: list[Slot]) -> None:
        """Give back the slots that are there and not among `wanted`."""
        kept = {slot.id for slot in wanted}
        for slot in self.ready:
            if slot.id not in kept:
                self._release(self._held[slot.id])

    def refresh(self, unusable: Set[str] = frozenset()) -> None:
        """Take note of slots that came, and give up those on `unusable` nodes."""
        for holding in list(self._held.values()):
            if holding.slot is None:
                self._look(holding)
            if holding.slot is not None and holding.slot.node in unusable:
                self._release(holding)

    def release(self) -> None:
        """Give everything back."""
        for holding in list(self._held.values()):
            self._release(holding)

    def _look(self, holding: _Holding) -> None:
        table = placement_group_table(holding.group)
        if table.get("state") != "CREATED":
            return
        devices: tuple[str, ...] = ()
        if self._resources.get("GPU"):
            if (found := self._devices(holding)) is None:
                return
            devices = found
        holding.slot = Slot(holding.group.id.hex(), table["bundles_to_node_id"][0], devices)

    def _devices(self, holding: _Holding) -> tuple[str, ...] | None:
        """The accelerators in a slot, once its anchor has answered."""
        if holding.anchor is None:
            needs = dict(self._resources)
            holding.anchor = (
                ray.remote(_Anchor)
                .options(
                    num_cpus=needs.pop("CPU", 0),
                    num_gpus=needs.pop("GPU"),
                    resources=needs,
                    scheduling_strategy=PlacementGroupSchedulingStrategy(holding.group),
                )
                .remote()
            )
            holding.devices = holding.anchor.devices.remote()
        return ray.get(holding.devices) if arrived([holding.devices]) else None

    def _release(self, holding: _Holding) -> None:
        del self._held[holding.group.id.hex()]
        if holding.anchor is not None:
            ray.kill(holding.anchor)
        remove_placement_group(holding.group)


def release_all_of(owner: str) -> None:
    """Give back what the process that owned the slots did not: it was killed.

    Ray does so by itself only when the whole job has ended.
    """
    for group in placement_group_table().values():
        if group["name"].startswith(f"{owner}/") and group["state"] != "REMOVED":
            with suppress(ValueError):  # it went in the meantime
                remove_placement_group(get_placement_group(group["name"]))
