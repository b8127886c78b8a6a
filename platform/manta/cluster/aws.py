"""Nodes on AWS, spot first: Ray's own provider, with on-demand nodes where spot capacity lacks.

Ray 2.60 doesn't choose another node type when one can't be launched on AWS. Its autoscaler v2
lowers the score of a type only when an instance was allocated and never came up, but AWS
refuses at once; v1 records the refusal and doesn't weigh it. So a spot type without capacity
and with the higher priority would be requested again and again.

cluster.yaml names this module as `provider.module`. It runs on the machine of `ray up` and on the
head.
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

# Error codes by which AWS says that it has no spot instance, or none for this account.
NO_SPOT = {
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
}
# The autoscaler lists the instances and then the errors. A round that listed before the on-demand
# node existed must end before the failure of the spot node is raised, or one more is requested.
ROUND_SECONDS = 5.0
# The autoscaler launches from several threads; counting nodes and adding some is one operation.
COUNTING = threading.Lock()


class SpotFirst(AWSNodeProvider):  # type: ignore[misc]
    """Ray's AWS provider with `provider.fallback`: spot node type → on-demand node type."""

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Ray's own, with the fallback types' resolved configs in `provider.fallback_types`.

        Raises:
            ValueError: if `provider.fallback` names a node type that isn't in the file.
        """
        config = AWSNodeProvider.bootstrap_config(cluster_config)
        types = config["available_node_types"]
        fallback = config["provider"].get("fallback", {})
        for name in [*fallback, *fallback.values()]:
            if name not in types:
                raise ValueError(
                    f"provider.fallback names the node type {name!r}, which "
                    "available_node_types doesn't have; correct the name or add the type"
                )
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
        """Launch `count` nodes, of the fallback type where there is no spot capacity.

        Raises:
            NodeLaunchException: if not all nodes are of the type asked for, also where nodes of
                the fallback type were launched instead: the autoscaler finds those by their tags.
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
        node_type = self.provider_config["fallback_types"][other]
        there = self.non_terminated_nodes(
            {TAG_RAY_NODE_KIND: tags[TAG_RAY_NODE_KIND], TAG_RAY_USER_NODE_TYPE: other}
        )
        count = min(count, node_type["max_workers"] - len(there))
        if count <= 0:
            return 0
        changed = {TAG_RAY_USER_NODE_TYPE: other, TAG_RAY_LAUNCH_CONFIG: node_type["launch_hash"]}
        made = super().create_node(node_type["node_config"], {**tags, **changed}, count)
        time.sleep(ROUND_SECONDS)
        return len(made)


def _reason(error: Exception) -> str:
    if isinstance(error, NodeLaunchException):
        return str(error.category)
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
