"""What a cluster file asks for, described alike for every provider of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any


class NodeProvider(Enum):
    """What launches the nodes; the value is how people read it."""

    AWS = "AWS"
    GCP = "Google Cloud"
    LOCAL = "machines of your own"
    KUBERAY = "KubeRay"
    OTHER = "another provider"


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one type.

    Attributes:
        name: the node type's name in the file.
        head: whether this is the head's node type.
        resources: Ray's resources of each node, by name: "CPU", "GPU", …
        least: minimum number of nodes; these always run.
        most: maximum number of nodes at once.
        image: machine or container image of the nodes; None if the file doesn't say.
        spot: whether the nodes are spot (preemptible) instances.
        machine: the cloud's instance type; None if the file doesn't say.
    """

    name: str
    head: bool
    resources: Mapping[str, float]
    least: int
    most: int
    image: str | None = None
    spot: bool = False
    machine: str | None = None

    @property
    def gpus(self) -> float:
        """GPUs that Ray counts on each node."""
        return self.resources.get("GPU", 0)

    def room(self, needs: Mapping[str, float]) -> int:
        """How many workers that need `needs` each have room on one node."""
        counts = [
            int(self.resources.get(name, 0) / much) for name, much in needs.items() if much > 0
        ]
        return min(counts, default=1)


@dataclass(frozen=True)
class ClusterPlan:
    """A cluster file, read.

    Attributes:
        path: the file's path.
        text: the file's text.
        provider: kind of cluster that has the nodes, such as AWS or KubeRay.
        data: the file's content; for KubeRay, `spec` of the RayCluster, and all `objects`.
        groups: the node types, the head's among them; none if the machines are the user's own.
        most: maximum number of worker nodes at once, all groups together.
        setup: the commands that prepare a node.
        start: the commands that start Ray, the head's and the workers'.
        mounts: files copied to the nodes: path on the node → path on this machine.
        machines: number of machines, where they are the user's own.
    """

    path: Path
    text: str
    provider: NodeProvider
    data: dict[str, Any]
    groups: tuple[NodeGroup, ...]
    most: int
    setup: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    mounts: Mapping[str, str] = field(default_factory=dict)
    machines: int = 0

    @property
    def head(self) -> NodeGroup | None:
        """The head's node type."""
        return next((group for group in self.groups if group.head), None)

    @property
    def workers(self) -> list[NodeGroup]:
        """The other node types."""
        return [group for group in self.groups if not group.head]

    @property
    def launched(self) -> bool:
        """Whether `ray up` launches the cluster and installs packages on its nodes."""
        return self.provider is not NodeProvider.KUBERAY

    @property
    def cloud(self) -> bool:
        """Whether nodes cost money by the hour."""
        return self.provider is not NodeProvider.LOCAL
