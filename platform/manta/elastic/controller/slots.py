"""The resources that a run holds in the cluster: a slot for each worker.

A slot is a placement group with one bundle. It outlives the workers in it, so a dead worker
is replaced without asking the cluster again. A pending slot makes an autoscaler act, and its
placement shows at once that a node has come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
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
from manta.elastic.cluster_state.node_labels import NodeWish, labels_of_nodes
from manta.elastic.controller.turns import name_of

# Seconds to wait for a slot's anchor: its process takes a few seconds to start. A slot whose anchor
# is later than that counts as pending.
ANCHOR_SECONDS = 30.0


@dataclass(frozen=True)
class Slot:
    """Resources held for one worker.

    Attributes:
        id: id of the placement group that holds them.
        node: id of its node.
        devices: ids of its accelerators.
        price: price of the worker for an hour there.
        preferred: whether the node is one that workers go to first.
    """

    id: str
    node: str
    devices: tuple[str, ...] = ()
    price: float = 0.0
    preferred: bool = True


@dataclass
class _Holding:
    """A placement group, and the actor that occupies its accelerators to learn their ids.

    `devices` is the reference of the actor's reply; `asked` is the time of the request to it;
    `waits_until` is the time until which only a preferred node will do, None if any will.
    """

    group: PlacementGroup
    slot: Slot | None = None
    anchor: ActorHandle | None = None
    devices: Any = field(default=None, repr=False)
    asked: float = 0.0
    waits_until: float | None = None


class _Anchor:
    """Occupies a slot's accelerators, so that Ray assigns them to no other process."""

    def devices(self, accelerator: str) -> tuple[str, ...]:
        """Ids of the accelerators, in the form of CUDA_VISIBLE_DEVICES."""
        return tuple(map(str, ray.get_runtime_context().get_accelerator_ids().get(accelerator, ())))


class Slots:
    """A run's slots; Ray releases them when the process that owns them ends.

    Args:
        resources: Ray resources that one worker needs.
        owner: name of the run, unique in the cluster, for `release_all_of`.
        minimum: fewest slots that the run can begin with, which other runs can read (`Turns`).
        note: called with each message for people.
        accelerator: name of the resource whose device ids the workers must know.
        wish: the nodes that workers go to.
        price: price of a worker for an hour on a node with these labels.
    """

    def __init__(
        self,
        resources: dict[str, float],
        owner: str,
        *,
        minimum: int = 1,
        note: Callable[[str], None] = lambda message: None,
        accelerator: str = "GPU",
        wish: NodeWish | None = None,
        price: Callable[[Mapping[str, str]], float] = lambda labels: 0.0,
    ):
        self._wish, self._price = wish or NodeWish(), price
        self._owner, self._minimum, self._requested = owner, minimum, 0
        self._resources = bundle_of(resources)
        self._note, self._accelerator = note, accelerator
        self._told: set[str] = set()
        self._held: dict[str, _Holding] = {}

    @property
    def ready(self) -> list[Slot]:
        """The placed slots: preferred nodes first, then cheap ones, those of a node together."""
        found = [h.slot for h in self._held.values() if h.slot is not None]
        return sorted(found, key=lambda s: (not s.preferred, s.price, s.node, s.devices, s.id))

    @property
    def pending(self) -> int:
        """The number of slots that are requested and not placed."""
        return len(self._held) - len(self.ready)

    @property
    def answering(self) -> int:
        """The number of slots that are placed and wait for their anchor's reply."""
        since = time.monotonic() - ANCHOR_SECONDS
        asked = [h for h in self._held.values() if h.slot is None and h.anchor is not None]
        return sum(holding.asked > since for holding in asked)

    def request(self, total: int) -> None:
        """Have `total` slots, placed and pending together; withdraw surplus requests."""
        for holding in [h for h in self._held.values() if h.slot is None]:
            if len(self._held) <= total:
                break
            self._release(holding)
        while len(self._held) < total:
            self._request_one()

    def _request_one(self, *, preferred: bool = True) -> None:
        """Request a slot, at first on a preferred node if there are any."""
        preferred = preferred and bool(self._wish.prefer)
        self._requested += 1
        group = placement_group(
            [self._resources],
            strategy="PACK",
            name=name_of(self._owner, self._minimum, self._requested),
            bundle_label_selector=[self._wish.selector(preferred=preferred)],
        )
        until = time.monotonic() + self._wish.patience if preferred else None
        self._held[group.id.hex()] = _Holding(group, waits_until=until)

    def keep(self, wanted: list[Slot]) -> None:
        """Release the placed slots that are not among `wanted`."""
        kept = {slot.id for slot in wanted}
        for slot in self.ready:
            if slot.id not in kept:
                self._release(self._held[slot.id])

    def refresh(self, unusable: Set[str] = frozenset()) -> None:
        """Find newly placed slots, and release those on `unusable` nodes."""
        labels = cache(labels_of_nodes)  # of all nodes: asked for once, and only if a slot is new
        for holding in list(self._held.values()):
            if holding.slot is None:
                self._look(holding, labels)
                self._widen(holding)
            if holding.slot is not None and holding.slot.node in unusable:
                self._release(holding)

    def _widen(self, holding: _Holding) -> None:
        """Take any node for a slot that has waited long enough for a preferred one."""
        late = holding.waits_until is not None and time.monotonic() > holding.waits_until
        if late and holding.slot is None and holding.anchor is None:
            self._release(holding)
            self._request_one(preferred=False)

    def wait(self, total: int, grace: float, given_up: Callable[[], bool]) -> None:
        """Wait until `total` slots are placed, at most `grace` seconds.

        Wait longer for a placed slot whose anchor is about to reply: a group that starts
        without it would soon have to be replaced by a larger one.
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

    def _look(self, holding: _Holding, labels: Callable[[], dict[str, dict[str, str]]]) -> None:
        table = placement_group_table(holding.group)
        if table.get("state") != "CREATED":
            return
        devices: tuple[str, ...] = ()
        if self._resources.get(self._accelerator):
            if (found := self._devices(holding)) is None:
                return
            devices = found
        node = table["bundles_to_node_id"][0]
        its = labels().get(node, {})
        holding.slot = Slot(
            holding.group.id.hex(),
            node,
            devices,
            self._price(its),
            self._wish.is_preferred(its),
        )

    def _devices(self, holding: _Holding) -> tuple[str, ...] | None:
        """The ids of a slot's accelerators; None until its anchor has replied.

        If the anchor died first, a new slot is requested.
        """
        if holding.anchor is None:
            self._ask(holding)
        # Looked at once: an error may arrive between two looks.
        if not arrived([holding.devices]):
            return None
        if died(holding.devices):
            self._tell_once(
                "a process that should find a worker's GPUs died: requesting another slot"
            )
            self._release(holding)
            self._request_one()
            return None
        devices: tuple[str, ...] = ray.get(holding.devices)
        return devices

    def _tell_once(self, message: str) -> None:
        """Tell a message once, since on a broken node every anchor dies."""
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
    """Release the slots of an owner whose process was killed.

    Ray does that by itself only at the end of the whole job.
    """
    for group in placement_group_table().values():
        if group["name"].startswith(f"{owner}/") and group["state"] != "REMOVED":
            with suppress(ValueError):  # it was removed in the meantime
                remove_placement_group(get_placement_group(group["name"]))
