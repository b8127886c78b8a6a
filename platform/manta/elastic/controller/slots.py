"""The places that a run holds in the cluster, one for each worker.

A slot is a placement group of a single bundle: it outlives the workers in it, so that a
worker that died is replaced without asking the cluster again, and a slot that is asked for
and not yet there is what makes an autoscaler act and what tells at once that a node came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
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

from manta.elastic.cluster_state.actor_replies import arrived, died
from manta.elastic.cluster_state.demand import bundle_of

# An anchor is a process, which takes a second or a few to start: a slot whose anchor has not
# answered for longer is not waited for, as one that is not there at all.
ANCHOR_SECONDS = 30.0


@dataclass(frozen=True)
class Slot:
    """A place for one worker: where it is, and the ids of the accelerators in it."""

    id: str
    node: str
    devices: tuple[str, ...] = ()


@dataclass
class _Holding:
    """A placement group, and the actor that occupies its accelerators to learn their ids.

    `devices` is the actor's answer, on its way or there; `asked` is when it was asked.
    """

    group: PlacementGroup
    slot: Slot | None = None
    anchor: ActorHandle | None = None
    devices: Any = field(default=None, repr=False)
    asked: float = 0.0


class _Anchor:
    """Occupies a slot's accelerators; Ray gives their ids to nobody else meanwhile."""

    def devices(self, accelerator: str) -> tuple[str, ...]:
        """Ids of the accelerators, as CUDA_VISIBLE_DEVICES wants them."""
        return tuple(map(str, ray.get_runtime_context().get_accelerator_ids().get(accelerator, ())))


class Slots:
    """The slots of a run, in the process that owns them: they go when it goes.

    Args:
        resources: what one worker needs.
        owner: a name that no other run in the cluster has, for `release_all_of`.
        note: told what a person should know.
        accelerator: the resource of which a slot's workers must know the ids.
    """

    def __init__(
        self,
        resources: dict[str, float],
        owner: str,
        *,
        note: Callable[[str], None] = lambda message: None,
        accelerator: str = "GPU",
    ):
        self._owner, self._requested = owner, 0
        self._resources = bundle_of(resources)
        self._note, self._accelerator = note, accelerator
        self._told: set[str] = set()
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

    @property
    def answering(self) -> int:
        """How many have their place, and will be there once their anchor has answered."""
        since = time.monotonic() - ANCHOR_SECONDS
        asked = [h for h in self._held.values() if h.slot is None and h.anchor is not None]
        return sum(holding.asked > since for holding in asked)

    def request(self, total: int) -> None:
        """Have `total` slots, held and asked for together; surplus requests are withdrawn."""
        for holding in [h for h in self._held.values() if h.slot is None]:
            if len(self._held) <= total:
                break
            self._release(holding)
        while len(self._held) < total:
            self._request_one()

    def _request_one(self) -> None:
        self._requested += 1
        name = f"{self._owner}/{self._requested}"
        group = placement_group([self._resources], strategy="PACK", name=name)
        self._held[group.id.hex()] = _Holding(group)

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

    def wait(self, total: int, grace: float, given_up: Callable[[], bool]) -> None:
        """Return once `total` are there; else after `grace` seconds.

        One whose place is found and whose anchor is about to answer is waited for longer: a
        group that starts without it would have to be replaced by a larger one soon.
        """
        until = time.monotonic() + grace
        while len(self.ready) < total and not given_up():
            if time.monotonic() >= until and not self.answering:
                return
            time.sleep(0.05)
            self.refresh()

    def release(self) -> None:
        """Give everything back."""
        for holding in list(self._held.values()):
            self._release(holding)

    def _look(self, holding: _Holding) -> None:
        table = placement_group_table(holding.group)
        if table.get("state") != "CREATED":
            return
        devices: tuple[str, ...] = ()
        if self._resources.get(self._accelerator):
            if (found := self._devices(holding)) is None:
                return
            devices = found
        holding.slot = Slot(holding.group.id.hex(), table["bundles_to_node_id"][0], devices)

    def _devices(self, holding: _Holding) -> tuple[str, ...] | None:
        """The accelerators in a slot, once its anchor has answered.

        One that died before has told nothing, and its place is asked for anew.
        """
        if holding.anchor is None:
            self._ask(holding)
        if died(holding.devices):
            self._tell_once(
                "a process that was to find a worker's GPUs died: asking for another place"
            )
            self._release(holding)
            self._request_one()
            return None
        return ray.get(holding.devices) if arrived([holding.devices]) else None

    def _tell_once(self, message: str) -> None:
        """Where all of them die, as on a node that is broken, it is said once."""
        if message not in self._told:
            self._told.add(message)
            self._note(message)

    def _ask(self, holding: _Holding) -> None:
        needs = dict(self._resources)
        options = {
            "num_cpus": needs.pop("CPU", 0),
            "num_gpus": needs.pop("GPU", 0),
            "resources": needs,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(holding.group),
        }
        holding.anchor = ray.remote(_Anchor).options(**options).remote()
        holding.devices = holding.anchor.devices.remote(self._accelerator)
        holding.asked = time.monotonic()

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
