"""What a cluster file asks for, in the same words for every kind of cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any


class NodeProvider(Enum):
    """Who launches the nodes."""

    AWS = "AWS"
    GCP = "Google Cloud"
    LOCAL = "machines of your own"
    KUBERAY = "KubeRay"
    OTHER = "another provider"


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one type.

    Attributes:
        name: in the file.
        head: whether it is the head's.
        resources: what Ray counts on each: "CPU", "GPU", …
        least: nodes that are always there.
        most: nodes that may be there at once.
        image: what they start from; None if the file doesn't say.
        spot: whether the cloud can take them back.
        machine: their instance type; None if the file doesn't say.
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
        path: of the file.
        text: the file as it is.
        kind: who launches the nodes.
        data: the file's content; of KubeRay, the RayCluster's.
        groups: the node types, the head's among them; none if the machines are the user's own.
        most: workers that may be there at once, of all groups together.
        setup: the commands that prepare a node.
        start: the commands that start Ray, the head's and the workers'.
        mounts: files that the nodes get: path there → path here.
        machines: how many of them, where the machines are the user's own.
    """

    path: Path
    text: str
    kind: NodeProvider
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
        """Whether `ray up` sets the nodes up, and not an image."""
        return self.kind is not NodeProvider.KUBERAY

    @property
    def cloud(self) -> bool:
        """Whether nodes cost money by the hour."""
        return self.kind is not NodeProvider.LOCAL
