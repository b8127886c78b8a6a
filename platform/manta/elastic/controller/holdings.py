"""What a run holds of a cluster: slots, keepers of snapshots, warm workers, its share of all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

from manta.config.cost import CostSection
from manta.config.scaling import ScalingSection
from manta.elastic.cluster_state import nodes
from manta.elastic.cluster_state.autoscaler import may_grow
from manta.elastic.cluster_state.node_labels import NodeWish
from manta.elastic.controller.group import SlotWorkerGroup, start_worker
from manta.elastic.controller.slots import Slot, Slots
from manta.elastic.controller.spending import Spending
from manta.elastic.controller.warm_workers import WarmWorkers
from manta.elastic.snapshot_memory.keeper import Keepers
from manta.elastic.worker import worker_calls

# Seconds that a group with its minimum of workers waits for further slots.
GRACE_SECONDS = 0.4
# Seconds in which Ray places a slot on a node that is there and has room.
PLACED_SECONDS = 1.0


@dataclass(frozen=True)
class WorkerShare:
    """A run's share of a cluster that other runs use too, from the actor that assigns shares.

    The actor's method ``share_of(name, useful)`` returns a number of workers.
    """

    arbiter: ActorHandle
    name: str

    def workers(self, useful: int) -> int:
        """How many workers the run may have now.

        Args:
            useful: most workers that the run can use.

        Raises:
            RayError: if the actor is dead.
        """
        found: int = ray.get(self.arbiter.share_of.remote(self.name, useful))
        return found


@dataclass(frozen=True)
class Elasticity:
    """The facts of a run that the controller needs.

    Attributes:
        scaling: the config's section on workers.
        cost: the config's section on prices.
        spent: money that the run has cost before.
        hours: hours since the run's first start.
        total_tokens: tokens at which the run's schedule ends.
        snapshots: whether snapshots are kept in memory.
        in_place: whether workers that outlive a group go on in the next one.
        checked: reference of the run, checked by `preflight.check`, for workers that are to come.
        warm_after: seconds of training before warm workers are started.
        owner: unique name under which the run holds slots in the cluster.
        pool: warm workers shared by consecutive runs; None if the run has its own.
        begun: warm or starting workers that the run takes over.
        share: limit on the run's workers beside concurrent trials; by default `scaling.max`.
        mailbox: the run's mailbox actor.
        runtime_env: Ray's runtime environment of the workers.
    """

    scaling: ScalingSection
    cost: CostSection
    spent: float
    hours: float
    total_tokens: int
    snapshots: bool
    in_place: bool
    checked: ObjectRef
    warm_after: float
    owner: str
    pool: WarmWorkers | None
    begun: WarmWorkers | None
    share: WorkerShare | None
    mailbox: ActorHandle
    runtime_env: dict[str, Any]


def open_pool(resources: dict[str, float], runtime_env: dict[str, Any]) -> WarmWorkers:
    """An empty pool of warm workers for runs with the same needs."""
    return WarmWorkers(lambda node: start_worker(node, runtime_env, resources))


def _wish_of(scaling: ScalingSection) -> NodeWish:
    """The nodes that workers go to; where none can come, nobody waits for a preferred one."""
    patience = scaling.prefer_wait if scaling.prefer and may_grow() else PLACED_SECONDS
    return NodeWish(scaling.prefer, scaling.avoid, patience)


class Holdings:
    """Takes and gives back what a run holds; it decides nothing of the run.

    Attributes:
        slots: places for workers.
        keepers: actors that keep snapshots in the memory of nodes.
        warm: workers that are started but train nothing yet.
        survivors: slot id → the worker there that has the run's state from the last group.
        largest: most workers that the run may have now.
    """

    def __init__(self, elasticity: Elasticity, note: Callable[[str], None]):
        self._known = elasticity
        scaling = elasticity.scaling
        resources = scaling.resources_per_worker
        self.slots = Slots(
            resources,
            elasticity.owner,
            minimum=scaling.min,
            note=note,
            wish=_wish_of(scaling),
            price=lambda labels: elasticity.cost.price_of(labels) * scaling.devices_per_worker,
        )
        self.spending = Spending(
            elasticity.cost,
            (scaling.min, scaling.upper),
            scaling.devices_per_worker,
            spent=elasticity.spent,
            hours=elasticity.hours,
            clock=time.monotonic,
        )
        self.keepers = Keepers()
        self.warm = (
            elasticity.pool or elasticity.begun or open_pool(resources, elasticity.runtime_env)
        )
        self.survivors: dict[str, ActorHandle] = {}
        # Node id → workers that are to come to the present group.
        self._coming = Counter[str]()
        self.largest = self._useful = self._shared = scaling.upper

    def request(self) -> None:
        """Ask for as many slots as the run may have."""
        self.slots.request(self.largest)

    def release(self) -> None:
        """Give everything back."""
        self.take_survivors([])
        if self._known.pool is None:
            self.warm.release()
        self.keepers.release()
        self.slots.release()

    def take_survivors(self, slots: Iterable[Slot]) -> dict[str, ActorHandle]:
        """The survivors in `slots`, by slot id; all others are ended."""
        wanted = {slot.id for slot in slots}
        taken = {slot: actor for slot, actor in self.survivors.items() if slot in wanted}
        for slot, actor in self.survivors.items():
            if slot not in taken:
                ray.kill(actor)
        self.survivors = {}
        return taken

    def staffed(self, slots: Iterable[Slot]) -> list[Slot]:
        """Those of `slots` whose worker is there at once: a survivor or a ready warm one."""
        found, taken = [], Counter[str]()
        for slot in slots:
            if slot.id not in self.survivors:
                if taken[slot.node] >= self.warm.warm(slot.node):
                    continue
                taken[slot.node] += 1
            found.append(slot)
        return found

    def wait(self, stopped: Callable[[], bool]) -> list[Slot]:
        """Slots on nodes that are alive and not draining, after a moment in which more may come."""
        ours = {slot.node for slot in self.slots.ready} | set(self.keepers.handles)
        unusable = nodes.lost(ours) | set(nodes.draining())
        self.slots.refresh(unusable)
        self.keepers.forget(unusable)
        self.ask_share()
        self.slots.keep(self.slots.ready[: self.largest])
        self.request()
        # Who has survivors can take in others at any time, at the price of a moment.
        grace = 0.0 if self.survivors else GRACE_SECONDS
        self.slots.wait(self.largest, grace, stopped)
        return self.slots.ready

    def ask_share(self) -> bool:
        """Update the number of workers that the run may have; returns whether it is another."""
        before, scaling = self.largest, self._known.scaling
        if self._known.share is not None:
            with suppress(RayError):  # the actor died with the driver, which ends this process, too
                self._shared = self._known.share.workers(self._useful)
        self.largest = max(min(self._shared, self.spending.most), scaling.min)
        return self.largest != before

    def limited_by(self) -> str:
        """Why the run may not have more workers, for people."""
        if self._shared < self.spending.most:
            return "other runs need the rest"
        return "its money and its time are best spent so"

    def count_money(self) -> None:
        """Count the time since the last call as paid for."""
        self.spending.count(sum(slot.price for slot in self.slots.ready))

    def hourly(self, slots: Iterable[Slot]) -> float | None:
        """Price of an hour in some slots; None if devices have no price."""
        return sum(slot.price for slot in slots) if self._known.cost.has_price else None

    def fit(self, group: SlotWorkerGroup) -> None:
        """Keep the group's slots and as many others as the run may have; ask for the rest."""
        mine = group.placing.slots
        others = [slot for slot in self.slots.ready if slot not in mine]
        self.slots.keep([*mine, *others[: self.largest - len(mine)]])
        self.request()

    def want_all(self) -> None:
        """Ask for as many workers as the run may have: each would be of use."""
        self._useful = self._known.scaling.upper
        self.request()

    def want_no_more(self, group: SlotWorkerGroup) -> None:
        """Hold and ask for nothing but what the group has: more would be of no use."""
        mine = group.placing.slots
        self._useful = len(mine)
        self.slots.keep(mine)
        self.slots.request(len(mine))
        # The group's keepers may hold snapshots on nodes without a slot.
        needed = {slot.node for slot in mine} | group.placing.keepers.keys()
        self.keepers.forget(self.keepers.handles.keys() - needed)

    def group_started(self) -> None:
        """Take the start of a group, for which more workers may be of use again."""
        self._useful, self._coming = self._known.scaling.upper, Counter()

    def keep_snapshots(self, slots: Iterable[Slot]) -> None:
        """Open keepers of snapshots on nodes with workers now or soon."""
        if self._known.snapshots:
            self.keepers.open({slot.node for slot in slots})

    def warm_up(self, group: SlotWorkerGroup) -> None:
        """Start warm workers where a group may need them next.

        And have them make the model, where survivors would have to wait for that.
        """
        wanted = self._warm_for(self.slots.ready) | self._coming
        self.warm.fill(wanted)
        if not self._known.in_place:
            return
        rows = group.placing.micro_batch

        def prepare(actor: ActorHandle) -> Any:
            return actor.execute.remote(worker_calls.prepare, self._known.checked, rows)

        self.warm.prepare(wanted, prepare)

    def is_ready_for(self, slots: list[Slot], group: SlotWorkerGroup) -> bool:
        """Whether a group in these slots would find its warm workers started.

        And their models made, where the workers of the present group go on and would wait for that.
        """
        if not self._known.in_place:
            return self.warm.suffice(self._warm_for(slots))
        # Also without spares: those who come start while the others train.
        self._coming = Counter(slot.node for slot in slots if slot not in group.placing.slots)
        self.warm_up(group)
        return self.warm.suffice(self._coming) and self.warm.prepared(self._coming)

    def _warm_for(self, slots: list[Slot]) -> Counter[str]:
        """Node id → number of warm workers that a group in these slots should have there."""
        places, most = Counter(slot.node for slot in slots), self._known.scaling.spares
        if most is None:
            return places
        return Counter({node: min(count, most) for node, count in places.items()})
