"""A lineage as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from manta.show.lineage.lineage_graph import LineageGraph, LineageNode

MOST_FILES = 5
DIGEST, SHOWN_DIGEST = 32, 12
# Facts that every node of the kind has in its first line, or that tell people little.
NOT_SHOWN = {"format", "created", "corpus_fingerprint"}


def lineage_lines(graph: LineageGraph) -> list[str]:
    """The graph as a tree: each node below the one that leads to it, and only once."""
    shown = set[str]()
    lines = list(_lines(graph, graph.nodes[graph.root], "", "", shown))
    apart = [node for key, node in graph.nodes.items() if key not in shown]
    if apart:
        lines += ["", "not known:"]
        lines += [f"  {node.kind} {node.name}: {node.missing}" for node in apart]
    return lines


def _lines(
    graph: LineageGraph, node: LineageNode, relation: str, indent: str, shown: set[str]
) -> Iterator[str]:
    before = f"{relation} " if relation else ""
    if relation in (node.kind, ""):
        before = ""
    if node.key in shown:
        yield f"{indent}{before}{node.kind} {node.name} (above)"
        return
    shown.add(node.key)
    said = f": {node.missing}" if node.missing else ""
    yield f"{indent}{before}{node.kind} {node.name}{said}"
    deeper = indent + "  "
    if node.kind != "file":
        yield from (f"{deeper}{name}: {value}" for name, value in fact_texts(node))
    below = list(graph.below(node.key))
    files = [one for _, one in below if one.kind == "file" and node.kind == "source"]
    for one in files[:MOST_FILES]:
        shown.add(one.key)
        yield f"{deeper}{one.name}: {_text(one.facts)}"
    shown.update(one.key for one in files)
    if len(files) > MOST_FILES:
        yield f"{deeper}… and {len(files) - MOST_FILES:,} more files (--json has all)"
    for said, one in below:
        if one not in files:
            yield from _lines(graph, one, said, deeper, shown)


def fact_texts(node: LineageNode) -> Iterator[tuple[str, str]]:
    """Names and values of a node's facts, for people."""
    for name, value in node.facts.items():
        if name == "filters":
            yield from ((f"filter {each['name']}", _filter(each)) for each in value)
        elif name not in NOT_SHOWN and value not in (None, "", {}, []):
            yield name, _text(value)


def _filter(one: dict[str, Any]) -> str:
    version = f"version {one['version']}, " if one["version"] else ""
    changed = f", {one['changed']:,} changed" if one["changed"] else ""
    return f"{version}{one['in']:,} in, {one['out']:,} out{changed}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_text(each)} {name}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = str(value)
    is_digest = len(text) >= DIGEST and all(each in "0123456789abcdef" for each in text)
    return f"{text[:SHOWN_DIGEST]}…" if is_digest else text
