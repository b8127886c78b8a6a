"""A lineage as a page: a card for each thing, and a table of files."""

from __future__ import annotations

from pathlib import Path

from manta.show.lineage.lineage_graph import LineageGraph, LineageNode
from manta.show.lineage.lineage_lines import fact_texts
from manta.show.pages import page as html

FILE_COLUMNS = ("file", "of", "bytes", "rows", "SHA-256")


def write_lineage(graph: LineageGraph, path: Path) -> Path:
    """Write the page to `path` atomically; returns `path`.

    Raises:
        RunError: if the file can't be written.
    """
    root = graph.nodes[graph.root]
    counts = [
        f"{count:,} {kind if count == 1 else ('corpora' if kind == 'corpus' else kind + 's')}"
        for kind in ("model", "run", "corpus", "file")
        if (count := len(graph.of_kind(kind)))
    ]
    cards = [_card(graph, node) for node in graph.nodes.values() if node.kind != "file"]
    rows = [row for node in graph.of_kind("file") for row in _file_rows(graph, node)]
    parts = [html.header(f"Lineage of {root.kind} {root.name}", "", counts), *cards]
    if rows:
        parts.append(html.table("Files", FILE_COLUMNS, rows))
    html.write(path, f"Lineage of {root.name} – Manta", "\n".join(parts), [], "--output")
    return path


def _card(graph: LineageGraph, node: LineageNode) -> str:
    rows = [("note", node.missing)] if node.missing else []
    rows += list(fact_texts(node))
    rows += [
        (relation, f"{one.kind} {one.name}")
        for relation, one in graph.below(node.key)
        if one.kind not in ("file", "source")
    ]
    return html.facts(f"{node.kind} {node.name}", rows)


def _file_rows(graph: LineageGraph, node: LineageNode) -> list[tuple[str, ...]]:
    above = [graph.nodes[link.start].name for link in graph.links if link.end == node.key]
    said = [f"{node.facts[name]:,}" if name in node.facts else "" for name in ("bytes", "rows")]
    return [(node.name, source, *said, node.facts["sha256"]) for source in above or [""]]
