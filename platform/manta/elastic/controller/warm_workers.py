"""Warm workers: waiting processes that have imported everything.

Starting a process and importing Torch and Transformers is most of what a restart costs.
A warm worker (a spare) has done that before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import ray
from ray.actor import ActorHandle

from manta.elastic.cluster_state.actor_replies import arrived, dead, died

# Seconds to wait for a reply: a waiting process answers in milliseconds.
ANSWER_SECONDS = 0.5

# Takes a node's id; returns an actor pinned there, and a reference that is ready once it is warm.
StartSpare = Callable[[str], tuple[ActorHandle, Any]]


class WarmWorkers:
    """Warm workers by node.

    Args:
        start: starts a warm worker on a node.
    """

    def __init__(self, start: StartSpare):
        self._start = start
        self._waiting: dict[str, list[tuple[ActorHandle, Any]]] = {}
        # Worker → reference that is ready once it has prepared for a group to come.
        self._preparing: dict[ActorHandle, Any] = {}

    def fill(self, wanted: Mapping[str, int]) -> None:
        """Have `wanted` warm workers on each node; end those on other nodes."""
        for node in list(self._waiting):
            if node not in wanted:
                self.drop(node)
        for node, count in wanted.items():
            waiting = self._waiting.setdefault(node, [])
            waiting[:] = [spare for spare in waiting if not died(spare[1])]
            while len(waiting) < count:
                waiting.append(self._start(node))
            for actor, _ in waiting[count:]:
                ray.kill(actor)
            del waiting[count:]

    def warm(self, node: str) -> int:
        """The number of ready warm workers on a node."""
        return sum(arrived([warm]) and not died(warm) for _, warm in self._waiting.get(node, []))

    def suffice(self, wanted: Mapping[str, int]) -> bool:
        """Whether each node has the `wanted` number of ready warm workers."""
        return all(self.warm(node) >= count for node, count in wanted.items())

    def prepare(self, wanted: Mapping[str, int], begin: Callable[[ActorHandle], Any]) -> None:
        """Have ready warm workers prepare for a group to come, each once.

        Args:
            wanted: node → number of workers that prepare there.
            begin: begins that on a worker; returns a reference that is ready then.
        """
        known = {actor for waiting in self._waiting.values() for actor, _ in waiting}
        self._preparing = {a: ready for a, ready in self._preparing.items() if a in known}
        for node, count in wanted.items():
            ready = [actor for actor, warm in self._waiting.get(node, []) if arrived([warm])]
            for actor in ready[:count]:
                if actor not in self._preparing:
                    self._preparing[actor] = begin(actor)

    def prepared(self, wanted: Mapping[str, int]) -> bool:
        """Whether each node has the `wanted` number of warm workers that have prepared."""
        return all(
            sum(self._is_prepared(actor) for actor, _ in self._waiting.get(node, [])) >= count
            for node, count in wanted.items()
        )

    def _is_prepared(self, actor: ActorHandle) -> bool:
        preparing = self._preparing.get(actor)
        return preparing is not None and arrived([preparing])

    def take(self, nodes: Sequence[str]) -> list[ActorHandle]:
        """Take a worker on each node: a ready one, else one that is starting, else a new one."""
        self._forget_dead(set(nodes))
        return [self._take(node) for node in nodes]

    def _take(self, node: str) -> ActorHandle:
        waiting = self._waiting.get(node, [])
        waiting.sort(key=lambda spare: (not self._is_prepared(spare[0]), not arrived([spare[1]])))
        actor = waiting.pop(0)[0] if waiting else self._start(node)[0]
        self._preparing.pop(actor, None)
        return actor

    def _forget_dead(self, nodes: Set[str]) -> None:
        """Drop workers that died, while starting (their reference has an error) or since.

        A worker lost with its node gives neither a reply nor an error; don't wait for it.
        """
        waiting = [spare for node in nodes for spare in self._waiting.get(node, [])]
        ready = [actor for actor, warm in waiting if arrived([warm])]
        asked = {actor.__ray_ready__.remote(): actor for actor in ready}
        gone = {id(actor) for actor in dead(asked, ANSWER_SECONDS)}
        for node in nodes & self._waiting.keys():
            self._waiting[node] = [
                (actor, warm)
                for actor, warm in self._waiting[node]
                if id(actor) not in gone and not died(warm)
            ]

    def give(self, node: str, actor: ActorHandle, warm: Any) -> None:
        """Add a worker on a node; `warm` is a reference that is ready once the worker is."""
        self._waiting.setdefault(node, []).append((actor, warm))

    def drop(self, node: str) -> None:
        """End the warm workers on a node."""
        for actor, _ in self._waiting.pop(node, []):
            ray.kill(actor)

    def release(self) -> None:
        """End all warm workers."""
        for node in list(self._waiting):
            self.drop(node)
