"""Ray's provider of nodes on this machine, which starts them as Manta starts its own.

The process of the autoscaler imports it, by its name in the cluster's config.
"""

from __future__ import annotations

from typing import Any

from ray._private.node import Node
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

from manta.cluster.embedded import light_processes


def _no_monitor(node: Node) -> None:
    """In the place of the process that passes on what workers print, for a twentieth of a core."""


class LightNodeProvider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Of nodes without agent of a dashboard and log monitor; workers begin without Ray's script."""

    def __init__(self, *arguments: Any, **more: Any):
        self._light = light_processes()
        self._light.__enter__()  # for the life of this process
        Node.start_log_monitor = _no_monitor  # nobody listens to what these nodes' workers print
        super().__init__(*arguments, **more)
