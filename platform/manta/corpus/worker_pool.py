"""One pass over work units by a pool of workers on Ray.

Workers are actors, one a CPU. An *order* describes the work on one unit. Each worker has two, so
that the next is there when one is done. A worker that dies, as memory ran out or a library crashed,
is replaced. Either of its orders may be the cause, so each is tried again by itself, the last time
while no other worker works, so that it can have all of the memory.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from manta.config.errors import CorpusError, ErrorReport, RunError
from manta.corpus.work_units import described

logger = logging.getLogger(__name__)
Task = Callable[[dict[str, Any]], dict[str, Any]]
# Does a task for each of some orders.
Run = Callable[[Task, list[dict[str, Any]]], Iterator[dict[str, Any]]]

AHEAD = 2
MOST_DEATHS = 3
# If this many workers in a row die before they can take an order, the cause is not the input.
MOST_FAILED_STARTS = 3


def run(task: Task, orders: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Run `task` for each order on all CPUs of the cluster; yields results as they arrive.

    Orders, as `work_units.order` makes them, and results are plain JSON values.

    Raises:
        CorpusError: the first one that a task raised, without Ray's traceback around it; or if
            `MOST_DEATHS` workers died at the same order.
        RunError: if workers can't start.
    """
    if not orders:
        return
    pool = _Pool(task, orders)
    try:
        yield from pool.results()
    finally:
        pool.close()


class Worker:
    """Does one order after the other in one process."""

    def __init__(self, task: Task):
        self._task = task

    def ready(self) -> None:
        """Return once the process is up."""

    def work(self, order: dict[str, Any]) -> dict[str, Any] | ErrorReport:
        """The task's result, or the error that it raised.

        The error is returned, as Ray would wrap an exception into a traceback of its own.
        """
        try:
            return self._task(order)
        except CorpusError as error:
            return ErrorReport.of(error)


@dataclass(eq=False)
class _Order:
    """An order, and the number of workers that died while they had it."""

    content: dict[str, Any]
    deaths: int = 0


@dataclass(eq=False)
class _Member:
    """A worker and the orders that it has, the first one in work; None stands for its start."""

    actor: Any
    doing: dict[Any, _Order | None] = field(default_factory=dict)


class _Pool:
    """The workers of one pass, and the orders that are not done."""

    def __init__(self, task: Task, orders: list[dict[str, Any]]):
        self._task = task
        self._waiting = deque(map(_Order, orders))
        self._alone: deque[_Order] = deque()
        self._members: list[_Member] = []
        self._failed_starts = 0
        self._size = max(1, min(int(ray.cluster_resources().get("CPU", 1)), len(orders)))
        for _ in range(self._size):
            self._hire()

    def results(self) -> Iterator[dict[str, Any]]:
        """The results of all orders; see `run`."""
        while True:
            self._hand_out()
            doing = {ref: member for member in self._members for ref in member.doing}
            if not any(order for member in self._members for order in member.doing.values()) and (
                not self._waiting and not self._alone
            ):
                return
            for ref in ray.wait(list(doing), num_returns=1)[0]:
                yield from self._take(doing[ref], ref)

    def close(self) -> None:
        """End all workers."""
        for member in self._members:
            ray.kill(member.actor)
        self._members.clear()

    def _hire(self) -> None:
        options = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        member = _Member(ray.remote(**options)(Worker).remote(self._task))
        member.doing[member.actor.ready.remote()] = None
        self._members.append(member)

    def _hand_out(self) -> None:
        """Give orders to the workers that are up, first to those that have fewest."""
        up = [member for member in self._members if None not in member.doing.values()]
        for ahead in range(AHEAD):
            for member in up:
                if self._waiting and self._may_have(member, self._waiting[0], ahead):
                    self._give(member, self._waiting.popleft())
        idle = not any(member.doing for member in up)
        if self._alone and not self._waiting and idle and up:
            self._give(up[0], self._alone.popleft())

    def _may_have(self, member: _Member, order: _Order, ahead: int) -> bool:
        """Whether a worker may get an order now.

        A worker that has an order at which another worker died gets no other order.
        """
        doing = [other for other in member.doing.values() if other is not None]
        return len(doing) <= (0 if order.deaths else ahead) and not any(o.deaths for o in doing)

    def _give(self, member: _Member, order: _Order) -> None:
        member.doing[member.actor.work.remote(order.content)] = order

    def _take(self, member: _Member, ref: Any) -> Iterator[dict[str, Any]]:
        """Take a worker's result, or its death."""
        try:
            result = ray.get(ref)
        except RayTaskError:
            raise  # a defect of the task
        except RayError as death:
            yield from self._bury(member, death)
            return
        self._failed_starts = 0
        if member.doing.pop(ref) is not None:
            yield _value(result)

    def _bury(self, member: _Member, death: RayError) -> Iterator[dict[str, Any]]:
        """Replace a dead worker, and try again its orders without a result."""
        self._members.remove(member)
        unfinished: list[_Order | None] = []
        for ref, order in member.doing.items():
            try:
                result = ray.get(ref)
            except RayError:
                unfinished.append(order)
            else:
                if order is not None:
                    yield _value(result)
        if None in unfinished:
            self._count_failed_start(death)
        for suspect in unfinished:
            if suspect is not None:
                self._try_again(suspect, death)
        self._hire()

    def _count_failed_start(self, death: RayError) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MOST_FAILED_STARTS:
            raise RunError(
                f"{self._failed_starts} workers in a row died as they started: "
                f"{_first_line(death)}; see Ray's logs of these workers"
            )

    def _try_again(self, order: _Order, death: RayError) -> None:
        order.deaths += 1
        what = described(order.content)
        if order.deaths >= MOST_DEATHS:
            raise CorpusError(_given_up(what, death))
        logger.warning("a worker died at %s; this is tried again", what)
        last = order.deaths == MOST_DEATHS - 1
        (self._alone if last else self._waiting).append(order)


def _given_up(what: str, death: RayError) -> str:
    cause = (
        "Ray ended the last one because the node ran out of memory"
        if isinstance(death, OutOfMemoryError)
        else "most likely they ran out of memory"
    )
    return (
        f"{MOST_DEATHS} workers died one after the other at the same input, the last one while no "
        f"other worker ran: {what}; {cause}. Split or leave out the largest document, or prepare "
        "on a machine with more memory: the same command continues where this one stopped"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _value(result: dict[str, Any] | ErrorReport) -> dict[str, Any]:
    if isinstance(result, ErrorReport):
        raise result.error()
    return result
