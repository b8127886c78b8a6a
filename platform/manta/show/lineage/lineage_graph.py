"""A lineage as a graph: what something was made of, or what was made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["model", "run", "corpus", "source", "file"]


@dataclass(frozen=True)
class LineageNode:
    """One thing in a lineage.

    Attributes:
        key: text that no other node of the graph has.
        kind: kind of the thing.
        name: path, URL or name of the thing.
        facts: plain JSON values that describe the thing, by name.
        missing: why the thing could not be looked at; "" if it was.
    """

    key: str
    kind: Kind
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class LineageLink:
    """A link from one node to the next one.

    Attributes:
        start: key of the node that the link leads away from, towards the root.
        relation: words for what the first node has to do with the second.
        end: key of the other node.
    """

    start: str
    relation: str
    end: str


@dataclass
class LineageGraph:
    """Nodes and links, from a root on.

    Attributes:
        root: key of the node that was asked for.
        nodes: nodes by key, in the order in which they were found.
        links: links in the order in which they were found.
    """

    root: str
    nodes: dict[str, LineageNode] = field(default_factory=dict)
    links: list[LineageLink] = field(default_factory=list)

    def add(self, node: LineageNode) -> bool:
        """Add a node; returns whether the graph had none of its key."""
        new = node.key not in self.nodes
        self.nodes.setdefault(node.key, node)
        return new

    def link(self, start: str, relation: str, end: str) -> None:
        """Add a link, once."""
        link = LineageLink(start, relation, end)
        if link not in self.links:
            self.links.append(link)

    def below(self, key: str) -> Iterator[tuple[str, LineageNode]]:
        """What a node leads to, each with the link's relation."""
        for link in self.links:
            if link.start == key:
                yield link.relation, self.nodes[link.end]

    def of_kind(self, kind: Kind) -> list[LineageNode]:
        """All nodes of a kind."""
        return [node for node in self.nodes.values() if node.kind == kind]

    def as_json(self) -> dict[str, Any]:
        """The graph as plain JSON values."""
        return {
            "root": self.root,
            "nodes": [vars(node) for node in self.nodes.values()],
            "links": [vars(link) for link in self.links],
        }
