"""Ray's provider of nodes on this machine, which starts them as Manta starts its own.

The process of the autoscaler imports it, by its name in the cluster's config.
"""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

from manta.cluster.embedded import light_processes


class LightNodeProvider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Of nodes without a dashboard's agent, whose workers begin without Ray's own script."""

    def __init__(self, *arguments: Any, **more: Any):
        self._light = light_processes()
        self._light.__enter__()  # for the life of this process
        super().__init__(*arguments, **more)
