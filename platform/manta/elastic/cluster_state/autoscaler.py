"""Reads the state of the cluster's autoscaler, for people who wait for its nodes.

Nothing is requested here. Pending placement groups (`slots`, `demand`) make the autoscaler act:
that is documented, adds up over all runs and sweeps of a cluster, and ends with the process that
wants them. `ray.autoscaler.sdk.request_resources` has one request for the whole cluster, which
Ray Data overwrites, and which outlives the process that made it.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from manta.elastic.cluster_state import nodes
from manta.elastic.cluster_state.demand import bundle_of

# Seconds between two reads of the autoscaler's state.
NEWS_SECONDS = 5.0
# Seconds to wait for the state: a busy head answers late, and this is only for people.
ANSWER_SECONDS = 5


@dataclass(frozen=True)
class Outlook:
    """The autoscaler's state, as far as it concerns one resource shape.

    Attributes:
        coming: node type → number of nodes that are starting.
        capacity: number of workers that the present nodes hold, busy or not.
        refused: whether the autoscaler can start no node for another worker.
        failure: why the last start of a node failed; "" if none failed.
    """

    coming: Counter[str]
    capacity: int
    refused: bool
    failure: str

    def explained(self) -> list[str]:
        """The state in words, for people."""
        found = []
        if self.coming:
            types = ", ".join(f"{count} × {kind}" for kind, count in sorted(self.coming.items()))
            found.append(f"on their way: {types}")
        elif self.refused and self.capacity:
            found.append(
                f"the cluster is at its maximum size, with room for {self.capacity} in all"
            )
        elif self.refused:
            found.append(
                "the autoscaler has no node type for such a worker: compare "
                "scaling.resources_per_worker with the cluster's available_node_types and "
                "max_workers; the run goes on waiting"
            )
        if self.failure:
            found.append(f"a node could not be started ({self.failure})")
        return found


class Shortage:
    """Words the message on what a run waits for: once, and again when something changed.

    Args:
        smallest: fewest workers that are needed to start.
        resources: Ray resources that one worker needs.
    """

    def __init__(self, smallest: int, resources: dict[str, float]):
        needs = ", ".join(f"{amount:g} {name}" for name, amount in bundle_of(resources).items())
        self._waiting = f"waiting for {smallest} workers of {needs} each"
        if smallest == 1:
            self._waiting = f"waiting for 1 worker of {needs}"
        self._bundle = bundle_of(resources)
        self._told, self._looked = "", -math.inf

    def news(self, found: int) -> str | None:
        """A message for people if something changed; there is room for `found` workers now."""
        if time.monotonic() - self._looked < NEWS_SECONDS:
            return None
        self._looked = time.monotonic()
        expected = outlook(self._bundle)
        more = [] if expected is None else expected.explained()
        text = "; ".join([f"{self._waiting}: there is room for {found or 'none'}", *more])
        if text == self._told:
            return None
        self._told = text
        return text


def outlook(resources: dict[str, float]) -> Outlook | None:
    """The autoscaler's state for workers with these resources; None without an autoscaler.

    Ray's autoscaler version 1 acts in the same way, but doesn't publish its state.
    """
    # Internal to Ray 2.60; tests/elastic/test_internals.py guards it.
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply()
    try:
        client = GcsClient(ray.get_runtime_context().gcs_address)
        reply.ParseFromString(client.get_cluster_status(timeout_s=ANSWER_SECONDS))
    except RayError:
        return None  # only for people, and the next call may succeed
    state = reply.autoscaling_state
    if not state.autoscaler_state_version:
        return None
    coming = Counter[str]()
    for request in state.pending_instance_requests:
        coming[request.ray_node_type_name] += request.count
    coming.update(instance.ray_node_type_name for instance in state.pending_instances)
    refused = any(
        dict(bundle.resources_bundle) == resources
        for group in state.infeasible_gang_resource_requests
        for bundle in group.requests
    )
    failed = max(state.failed_instance_requests, key=lambda f: f.failed_ts, default=None)
    failure = "" if failed is None else f"{failed.ray_node_type_name}: {failed.reason}"
    return Outlook(coming, nodes.room_for(resources), refused, failure)


def may_grow() -> bool:
    """Whether the cluster may have other nodes than this one, now or later."""
    return (
        bool(os.environ.get("RAY_ADDRESS"))
        or len(ray.nodes()) > 1
        or outlook(bundle_of({})) is not None
    )
