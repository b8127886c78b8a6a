"""Nodes on AWS, spot first: Ray's own provider, and on-demand nodes where there is no spot.

Ray 2.60 doesn't turn to another node type when one can't be launched on AWS. Its autoscaler v2
lowers the score of a type only when an instance was allocated and never came up, and AWS
refuses at once instead; v1 records the refusal and doesn't weigh it. So a failed spot type
with the higher priority would be asked for again and again.

Used by cluster.yaml as `provider.module`, on the machine of `ray up` and on the head.
"""

from __future__ import annotations

import copy
import threading
import time
from typing import Any

from botocore.exceptions import ClientError
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import hash_launch_conf
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import (
    TAG_RAY_LAUNCH_CONFIG,
    TAG_RAY_NODE_KIND,
    TAG_RAY_USER_NODE_TYPE,
)

# How AWS says that it has no spot instance to give, or none to this account.
NO_SPOT = {
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
}
# The autoscaler lists the instances and then the errors. A round of it that listed before the
# other node was there must be over when it hears that the spot one failed, or it asks once more.
ROUND_SECONDS = 5.0
# The autoscaler launches in several threads: one at a time counts and adds.
COUNTING = threading.Lock()


class SpotFirst(AWSNodeProvider):  # type: ignore[misc]
    """Ray's AWS provider with `provider.fallback`: spot node type → on-demand node type."""

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """As Ray's, and the fallback types' resolved configs where a provider finds them.

        Raises:
            ValueError: if `provider.fallback` names a node type that isn't there.
        """
        config = AWSNodeProvider.bootstrap_config(cluster_config)
        types = config["available_node_types"]
        fallback = config["provider"].get("fallback", {})
        for name in [*fallback, *fallback.values()]:
            if name not in types:
                raise ValueError(f"provider.fallback: no node type {name!r} in this file")
        config["provider"]["fallback_types"] = {
            name: {
                "node_config": copy.deepcopy(types[name]["node_config"]),
                "max_workers": types[name]["max_workers"],
                "launch_hash": hash_launch_conf(types[name]["node_config"], config["auth"]),
            }
            for name in fallback.values()
        }
        return config  # type: ignore[no-any-return]

    def create_node(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int
    ) -> dict[str, Any]:
        """Launch `count` nodes; instead of spot ones that can't be had, the type to fall back to.

        Raises:
            NodeLaunchException: if not all nodes could be launched as asked, also where others
                were launched in their place: the autoscaler finds those by their tags.
        """
        asked = tags.get(TAG_RAY_USER_NODE_TYPE, "")
        other = self.provider_config.get("fallback", {}).get(asked)
        try:
            made: dict[str, Any] = super().create_node(node_config, tags, count)
            reason = "fewer than asked for"
        except (NodeLaunchException, ClientError) as error:
            reason = _reason(error)
            if other is None or reason not in NO_SPOT:
                raise
            made = {}
        missing = count - len(made)
        if other is None or not missing:
            return made
        with COUNTING:
            instead = self._launch_other(other, tags, missing)
        raise NodeLaunchException(
            "no spot capacity",
            f"{missing} of {count} {asked} missing ({reason}); launched {instead} of {other} "
            "instead",
            None,
        )

    def _launch_other(self, other: str, tags: dict[str, str], count: int) -> int:
        """Launch up to `count` nodes of the type `other`, as its max_workers allows."""
        kind = self.provider_config["fallback_types"][other]
        there = self.non_terminated_nodes(
            {TAG_RAY_NODE_KIND: tags[TAG_RAY_NODE_KIND], TAG_RAY_USER_NODE_TYPE: other}
        )
        count = min(count, kind["max_workers"] - len(there))
        if count <= 0:
            return 0
        changed = {TAG_RAY_USER_NODE_TYPE: other, TAG_RAY_LAUNCH_CONFIG: kind["launch_hash"]}
        made = super().create_node(kind["node_config"], {**tags, **changed}, count)
        time.sleep(ROUND_SECONDS)
        return len(made)


def _reason(error: Exception) -> str:
    if isinstance(error, NodeLaunchException):
        return str(error.category)
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
