"""Labels of Ray's nodes: where workers should go first, and where never."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from manta.elastic.cluster_state import nodes


@dataclass(frozen=True)
class NodeWish:
    """The nodes that a run's workers go to.

    Attributes:
        prefer: label → values of nodes that come first.
        avoid: label → values of nodes that are never used.
        patience: seconds to wait for a preferred node before another one is taken.
    """

    prefer: Mapping[str, Sequence[str]] = field(default_factory=dict)
    avoid: Mapping[str, Sequence[str]] = field(default_factory=dict)
    patience: float = 0.0

    def selector(self, *, preferred: bool) -> dict[str, str]:
        """Ray's label selector for a worker: anywhere allowed, or on `preferred` nodes only.

        Ray takes one condition a label. Preferred values of a label are never avoided ones, so that
        the condition on the first includes that on the others.
        """
        never = {label: f"!in({','.join(values)})" for label, values in self.avoid.items()}
        first = {label: f"in({','.join(values)})" for label, values in self.prefer.items()}
        return {**never, **first} if preferred else never

    def is_preferred(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels comes first."""
        return all(labels.get(label) in values for label, values in self.prefer.items())


def labels_of_nodes() -> dict[str, dict[str, str]]:
    """Node id → its labels, for the nodes that are alive."""
    return {name: dict(node.get("Labels") or {}) for name, node in nodes.alive().items()}
