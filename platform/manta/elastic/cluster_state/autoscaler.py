"""What the cluster's autoscaler says, for people who wait for its nodes.

Nothing is asked of it here. A placement group that is wanted and not there (`slots`, `demand`) is
what makes it act: that is documented, adds up over all runs and sweeps of a cluster, and ends
with the process that wants it. `ray.autoscaler.sdk.request_resources` has one place for the whole
cluster, which Ray Data takes, and which outlives who asked.
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

# How often the autoscaler is asked for news.
NEWS_SECONDS = 5.0
# A head that is busy answers late; people can wait for the news.
ANSWER_SECONDS = 5


@dataclass(frozen=True)
class Outlook:
    """What may be expected.

    Attributes:
        coming: nodes that are on their way, by type.
        places: that the nodes hold which are there, in use or not.
        refused: whether it found that it can bring no node for one more.
        failure: why the newest start of a node failed, if one did.
    """

    coming: Counter[str]
    places: int
    refused: bool
    failure: str

    def explained(self) -> list[str]:
        """In words, for people."""
        found = []
        if self.coming:
            types = ", ".join(f"{count} × {kind}" for kind, count in sorted(self.coming.items()))
            found.append(f"on their way: {types}")
        elif self.refused and self.places:
            found.append(f"the cluster is as large as it may be, with {self.places} in all")
        elif self.refused:
            found.append(
                "the autoscaler has no node type for one: compare scaling.resources_per_worker "
                "with available_node_types and max_workers of the cluster; it goes on waiting"
            )
        if self.failure:
            found.append(f"a node could not be started ({self.failure})")
        return found


class Shortage:
    """What somebody who can't start waits for, told once, and again when there is news of it.

    Args:
        smallest: workers that are needed to start.
        resources: of one worker.
    """

    def __init__(self, smallest: int, resources: dict[str, float]):
        needs = ", ".join(f"{amount:g} {name}" for name, amount in bundle_of(resources).items())
        self._waiting = f"waiting for {smallest} workers of {needs} each"
        if smallest == 1:
            self._waiting = f"waiting for 1 worker of {needs}"
        self._bundle = bundle_of(resources)
        self._told, self._looked = "", -math.inf

    def news(self, found: int) -> str | None:
        """What to tell people, if anything; there is room for `found` workers now."""
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
    """What Ray's autoscaler says of places with these resources; None where there is no such.

    An autoscaler of the first version acts in the same way, but does not say what it does.
    """
    # Internal to Ray 2.60; tests/elastic/test_internals.py guards it.
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply()
    try:
        client = GcsClient(ray.get_runtime_context().gcs_address)
        reply.ParseFromString(client.get_cluster_status(timeout_s=ANSWER_SECONDS))
    except RayError:
        return None  # it is only for people, and there is a next time
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
    """Whether there may be other nodes than this one, now or later."""
    return (
        bool(os.environ.get("RAY_ADDRESS"))
        or len(ray.nodes()) > 1
        or outlook(bundle_of({})) is not None
    )
