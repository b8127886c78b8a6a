"""The scaling policy for Ray Train's controller: how many workers, where, and when to change.

`ScalingPolicy` is internal to Ray Train 2.60; tests/elastic/test_internals.py guards it.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train.v2._internal.execution.scaling_policy import (
    NoopDecision,
    ResizeDecision,
    ScalingPolicy,
)

from manta.elastic.cluster_state import nodes
from manta.elastic.cluster_state.autoscaler import Shortage, may_grow
from manta.elastic.cluster_state.ray_data_actors import settle
from manta.elastic.controller.group import Placing, SlotWorkerGroup
from manta.elastic.controller.growth import Growth
from manta.elastic.controller.holdings import Elasticity, Holdings
from manta.elastic.controller.slots import Slot
from manta.elastic.controller.turns import Turns
from manta.elastic.controller.watchdog import Watchdog
from manta.elastic.messages.events import Note, SnapshotMemory
from manta.record import number_format
from manta.record.alert_record import AlertCause
from manta.train.pause import Pause

# Seconds between two looks at the cluster while a group trains.
LOOK_SECONDS = 1.0
# Seconds between two looks at the memory of snapshots.
WEIGH_SECONDS = 30.0
# Most seconds to wait for the start of Ray Data's actors on the head.
SETTLE_SECONDS = 30.0
# How long workers may take to leave a group that falls apart: seconds, or steps if these are long.
LEAVE_SECONDS, LEAVE_STEPS = 5.0, 3.0
# Assumed seconds of a restart, until one has been measured.
RESTART_SECONDS = 5.0


class SlotPolicy(ScalingPolicy):  # type: ignore[misc]
    """Decides the number of workers from the available slots. `stop` is thread-safe."""

    def __init__(self, scaling_config: Any, elasticity: Elasticity):
        super().__init__(scaling_config)
        self.known = elasticity
        self._mail = elasticity.mailbox
        self._holdings = Holdings(elasticity, self._note)
        self._group: SlotWorkerGroup | None = None
        self._stop = False
        self._looked = self._weighed = -math.inf
        self._shortage = Shortage(elasticity.scaling.min, elasticity.scaling.resources_per_worker)
        self._turns = Turns(elasticity.owner)
        self._settled: Any = None
        self._paused = 0
        self._refused: int | None = None
        self._groups = 0
        self._chosen: list[Slot] = []
        # Slots of the run whose workers were still to be started when the group began.
        self._vacant = 0
        self._noticed: float | None = None
        self._restarts: list[float] = []

    # ---------------------------------------------- calls of Ray Train's controller

    def after_controller_start(self, train_run_context: Any) -> None:
        """Request slots, instead of asking Ray Train's autoscaling coordinator."""
        if may_grow():
            self._settled = settle()
        self._holdings.ask_share()
        self._holdings.request()

    async def before_controller_shutdown(self) -> None:
        """Give everything back."""
        self.release()

    def before_controller_abort(self) -> None:
        """Give everything back."""
        self.release()

    def release(self) -> None:
        """Give everything back."""
        self._holdings.release()

    def _get_num_workers_for_resource_request(self) -> int:
        return self.known.scaling.upper

    # ------------------------------------------------------- while there is no group

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Take the slots that are available; wait only while they are fewer than the minimum."""
        if (problem := ray.get(self._mail.failure.remote())) is not None:
            raise RuntimeError(problem.text)
        if self._stop:
            raise RuntimeError("stopped while there was no worker group")
        if self._turns.stays_back():
            time.sleep(0.1)
            return NoopDecision()
        slots = self._holdings.wait(lambda: self._stop)
        if len(slots) < self.known.scaling.min:
            if self._turns.give_way(len(slots)):
                self._note(
                    "another run waits for the same nodes, and each holds a part of what it needs: "
                    f"this one gives back room for {len(slots)} workers, and goes on after it"
                )
                self._holdings.slots.release()
                return NoopDecision()
            if (news := self._shortage.news(len(slots))) is not None:
                self._note(news)
            time.sleep(0.1)  # else the controller's loop would spin
            return NoopDecision()
        self._turns.begun()
        self._chosen = self._at_once(slots)
        self._vacant = len(slots) - len(self._chosen)
        return ResizeDecision(len(self._chosen), self.known.scaling.resources_per_worker)

    def _at_once(self, slots: list[Slot]) -> list[Slot]:
        """The slots to begin with: survivors don't wait for processes that are still to start."""
        if not self._holdings.survivors:
            return slots
        staffed = self._holdings.staffed(slots)
        return staffed if len(staffed) >= self.known.scaling.min else slots

    def placing(self, seconds: dict[str, float]) -> Placing:
        """The `Placing` of the group that was decided on."""
        began = time.time()
        attempt, micro_batch = ray.get(self._mail.begin_attempt.remote())
        if (problem := ray.get(self._mail.failure.remote())) is not None:
            raise RuntimeError(problem.text)
        self._wait_until_settled()
        taken = self._chosen
        self._holdings.keep_snapshots(taken)
        return Placing(
            slots=taken,
            spares=self._holdings.warm,
            keepers=self._holdings.keepers.handles,
            attempt=attempt,
            micro_batch=micro_batch,
            first=self._groups == 0,
            seconds=seconds,
            began=began,
            hang_seconds=self.known.scaling.hang_timeout,
            recycle=self.known.pool is not None,
            survivors=self._holdings.take_survivors(taken),
            hourly=self._holdings.hourly(taken),
        )

    def _wait_until_settled(self) -> None:
        """Wait until Ray Data's own actors run on the head, before any worker reads."""
        if self._settled is not None:
            with suppress(RayError):  # the run trains without that, too
                ray.get(self._settled, timeout=SETTLE_SECONDS)
            self._settled = None

    # ---------------------------------------------------------- while there is a group

    def group_started(self, group: SlotWorkerGroup) -> None:
        """Take the start of a group."""
        self._groups += 1
        self._group, self._paused, self._refused = group, 0, None
        self._holdings.group_started()
        self._watchdog = Watchdog(self.known.scaling.hang_timeout, group.placing.attempt)

    def group_ended(self, noticed: float, survivors: dict[str, ActorHandle]) -> None:
        """Take the end of the group: the time until the next one trains is a restart.

        Args:
            noticed: time at which the end was noticed, in seconds since the epoch.
            survivors: slot id → the worker there that can go on in the next group.
        """
        self._group, self._noticed = None, noticed
        self._holdings.survivors = survivors

    def patience(self) -> float:
        """Seconds that workers of a group that falls apart may take to leave it.

        They do at their next exchange, unless they wait for a worker whose node is cut off.
        """
        usual: float = ray.get(self._mail.progress.remote()).step_seconds
        return max(LEAVE_SECONDS, LEAVE_STEPS * usual)

    def stop(self) -> None:
        """Ask for the run's end at a step boundary; the controller's thread acts on it."""
        self._stop = True

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> Any:
        """Never resize here: workers leave by themselves at a step boundary when asked to."""
        now = time.monotonic()
        if self._stop:
            self._ask_pause(Pause.STOP)
        if self._group is not None and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look(self._group)
        return NoopDecision()

    def _look(self, group: SlotWorkerGroup) -> None:
        progress = ray.get(self._mail.progress.remote())
        if self._watchdog.barks(progress):
            group.declare_lost(self._watchdog.culprits(group, progress))
            return
        self._holdings.slots.refresh()
        if self._paused:
            return
        ready = self._holdings.slots.ready
        leaving = nodes.leaving(slot.node for slot in ready)
        ours = {slot.node for slot in group.placing.slots}
        if going := {node: at for node, at in leaving.items() if node in ours}:
            self._leave(group, going)
            return
        if self._is_spent(group, progress) or self._exceeds_share(group):
            return
        if progress.steps and progress.attempt == group.placing.attempt:
            if self._noticed is not None:
                self._restarts.append(progress.first_step - self._noticed)
                self._noticed = None
            self._holdings.keep_snapshots(ready)
            self._weigh_snapshots()
            if self._vacant or progress.seconds >= self.known.warm_after:
                self._holdings.warm_up(group)
            staying = [slot for slot in ready if slot.node not in leaving]
            self._consider_growth(group, progress, staying)

    def _is_spent(self, group: SlotWorkerGroup, progress: Any) -> bool:
        """Decide on the workers that money and time allow; returns whether the money is spent."""
        spending, known = self._holdings.spending, self.known
        self._holdings.count_money()
        if spending.is_exhausted:
            self._note(
                f"the budget of {number_format.money(known.cost.budget or 0.0)} is spent: the run "
                "is saved and ends; with a higher cost.budget the same command continues it",
                AlertCause("budget", f"budget of {known.cost.budget:g} spent"),
            )
            self._ask_pause(Pause.STOP)
            return True
        prices = [slot.price for slot in self._holdings.slots.ready]
        rate = progress.rate if progress.attempt == group.placing.attempt else 0.0
        left = known.total_tokens - progress.tokens
        news = spending.decide(len(group.placing.slots), rate, left, prices)
        if news is not None:
            self._note(news, spending.alert)
        return False

    def _exceeds_share(self, group: SlotWorkerGroup) -> bool:
        """Adjust the slots to the run's share; returns whether the group has to shrink."""
        if not self._holdings.ask_share():
            return False
        workers, largest = len(group.placing.slots), self._holdings.largest
        if largest < workers:
            self._note(f"{workers} → {largest} workers: {self._holdings.limited_by()}")
            self._ask_pause(Pause.REGROUP)
            return True
        self._holdings.fit(group)
        return False

    def _weigh_snapshots(self) -> None:
        """Report now and then how much memory the snapshots take."""
        if time.monotonic() - self._weighed >= WEIGH_SECONDS:
            self._weighed = time.monotonic()
            self._mail.put.remote(SnapshotMemory(self._holdings.keepers.used()))

    def _leave(self, group: SlotWorkerGroup, going: dict[str, float | None]) -> None:
        for node, deadline in going.items():
            when = "" if deadline is None else f" in {max(0.0, deadline - time.time()):.0f} s"
            self._note(f"node {node[:8]} will go away{when}: its workers leave it at the next step")
        stays = any(slot.node not in going for slot in group.placing.slots)
        # Who stays has the run's state: nobody needs to save it first.
        self._ask_pause(Pause.REGROUP if self.known.in_place and stays else Pause.LEAVE)

    def _consider_growth(self, group: SlotWorkerGroup, progress: Any, possible: list[Slot]) -> None:
        workers = len(group.placing.slots)
        rate = self.known.scaling.throughput or progress.rate / workers
        if not rate or self.known.scaling.upper <= workers:
            return
        growth = Growth(
            workers=workers,
            possible=len(possible),
            rate=rate,
            remaining=self.known.total_tokens - progress.tokens,
            stay=self.known.scaling.node_stay,
            restart=max(self._restarts[-3:], default=RESTART_SECONDS),
            running=progress.seconds,
            # Who replaces a lost worker was part of the group before.
            settle=0.0 if self._vacant else self.known.scaling.settle,
        )
        if len(possible) > workers:
            self._weigh(growth, possible, group)
        if not self._paused:
            self._ask_while_useful(group, growth)

    def _ask_while_useful(self, group: SlotWorkerGroup, growth: Growth) -> None:
        """Withdraw requests for nodes that would come too late for the run to gain by them."""
        most = replace(growth, possible=self.known.scaling.upper)
        if growth.running < growth.settle or most.worthwhile:
            self._holdings.want_all()
        else:
            self._holdings.want_no_more(group)

    def _weigh(self, growth: Growth, possible: list[Slot], group: SlotWorkerGroup) -> None:
        if growth.worthwhile and not self._holdings.is_ready_for(possible, group):
            return
        self._decide(growth)

    def _decide(self, growth: Growth) -> None:
        if growth.worthwhile:
            self._note(growth.explained())
            self._ask_pause(Pause.REGROUP)
        elif growth.running >= growth.settle and self._refused != growth.possible:
            self._refused = growth.possible
            self._note(growth.explained())

    def _ask_pause(self, pause: int) -> None:
        if self._group is not None and pause > self._paused:
            self._paused = pause
            self._group.ask_pause(int(pause))

    def _note(self, message: str, alert: AlertCause | None = None) -> None:
        self._mail.put.remote(Note(message, alert))
