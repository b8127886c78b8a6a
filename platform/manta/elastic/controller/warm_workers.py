"""Workers that wait: processes that are up and have imported everything.

Starting a process and importing Torch and Transformers is most of what a restart costs.
A spare has done it before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import ray
from ray.actor import ActorHandle

from manta.elastic.cluster_state.actor_replies import arrived, dead, died

# A process that waits answers in milliseconds.
ANSWER_SECONDS = 0.5

# Given a node's id: an actor that is pinned there, and a reference that is done once it is warm.
StartSpare = Callable[[str], tuple[ActorHandle, Any]]


class Spares:
    """Warm workers by node.

    Args:
        start: how to start one.
    """

    def __init__(self, start: StartSpare):
        self._start = start
        self._waiting: dict[str, list[tuple[ActorHandle, Any]]] = {}

    def fill(self, wanted: Mapping[str, int]) -> None:
        """Have as many on each node; those on other nodes are let go."""
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
        """How many on the node are ready."""
        return sum(arrived([warm]) and not died(warm) for _, warm in self._waiting.get(node, []))

    def suffice(self, wanted: Mapping[str, int]) -> bool:
        """Whether as many on each node are ready."""
        return all(self.warm(node) >= count for node, count in wanted.items())

    def take(self, nodes: Sequence[str]) -> list[ActorHandle]:
        """A worker on each: warm if there is one, else one that will be, else a new one."""
        self._forget_dead(set(nodes))
        return [self._take(node) for node in nodes]

    def _take(self, node: str) -> ActorHandle:
        waiting = self._waiting.get(node, [])
        waiting.sort(key=lambda spare: not arrived([spare[1]]))
        return waiting.pop(0)[0] if waiting else self._start(node)[0]

    def _forget_dead(self, nodes: Set[str]) -> None:
        """Those whose process has ended: on the way, which they said, or since, which they can't.

        One that is gone with its node does not answer, nor say so; that is not waited for.
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
        """Add a worker on the node; `warm` is a reference that is done once it is ready."""
        self._waiting.setdefault(node, []).append((actor, warm))

    def drop(self, node: str) -> None:
        """Let those on a node go."""
        for actor, _ in self._waiting.pop(node, []):
            ray.kill(actor)

    def release(self) -> None:
        """Let all go."""
        for node in list(self._waiting):
            self.drop(node)
