"""What people see of a corpus's filters: counts, reasons, and documents that were dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from manta.config.errors import CorpusError
from manta.corpus.filters.dropped import DroppedDocument, read_dropped
from manta.corpus.manifest import FilterRecord, Manifest

SHOWN_LINES = 8


def filters_table(records: Sequence[FilterRecord]) -> Table:
    """Documents in and out of each filter, its reasons and what it found."""
    table = Table("filter", title="filters, in their order", title_justify="left")
    for name in ("in", "dropped", "out", "changed"):
        table.add_column(name, justify="right")
    table.add_column("why, and what was found")
    for one in records:
        lost = one.documents_in - one.documents_out
        share = f" ({lost / one.documents_in:.1%})" if lost else ""
        table.add_row(
            escape(one.name),
            f"{one.documents_in:,}",
            f"{lost:,}{share}",
            f"{one.documents_out:,}",
            f"{one.changed:,}",
            escape(_listed(one)),
        )
    return table


def _listed(record: FilterRecord) -> str:
    lines = [f"{count:,} {name}" for name, count in _most(record.dropped)]
    lines += [f"found: {count:,} {name}" for name, count in _most(record.found)]
    return "\n".join(lines)


def _most(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def dropped_report(folder: str | Path, examples: int) -> RenderableType:
    """What the filters of a corpus did, with documents that they dropped.

    Args:
        folder: folder of the corpus.
        examples: most documents to show for each filter and reason.

    Raises:
        CorpusError: if the corpus was not filtered, or its record can't be read.
    """
    manifest = Manifest.read(folder)
    if "joined" in manifest.config:
        raise CorpusError(
            f"{folder}: this corpus was joined of others: look at what was dropped of each"
        )
    if manifest.filters is None:
        raise CorpusError(
            f"{folder}: this corpus was prepared without filters, so nothing was dropped by one; "
            "docs/filters.md says how to use them"
        )
    parts: list[RenderableType] = [filters_table(manifest.filters)]
    if any(one.dropped for one in manifest.filters):
        parts.append(examples_of(read_dropped(folder), examples))
    return Group(*parts)


def examples_of(documents: Iterable[DroppedDocument], most: int) -> RenderableType:
    """Some documents of each filter and reason, beside what was kept in their place."""

    def why(document: DroppedDocument) -> tuple[str, str]:
        return document.filter, document.reason

    parts: list[RenderableType] = []
    for (filter_, reason), group in groupby(sorted(documents, key=why), why):
        shown = [document for document in group if document.text is not None][:most]
        if shown:
            parts.append(Text(f"\n{filter_}: {reason}", "bold"))
            parts += map(_panel, shown)
    return Group(*parts)


def _panel(document: DroppedDocument) -> RenderableType:
    score = "" if document.score is None else f" · {document.score:g}"
    title = f"{document.file}{', ' if document.row else ''}{document.row}{score}"
    text: RenderableType = _start(document.text)
    if document.like is not None:
        text = Table.grid(padding=(0, 3), expand=True)
        text.add_column(ratio=1)
        text.add_column(ratio=1)
        text.add_row(Text("dropped", "bold"), Text(f"kept: {document.like}", "bold"))
        text.add_row(_start(document.text), _start(document.like_text))
    return Panel(text, title=escape(title), title_align="left")


def _start(text: str | None) -> Text:
    lines = (text or "").split("\n")
    return Text("\n".join(lines[:SHOWN_LINES] + (["…"] if len(lines) > SHOWN_LINES else [])))
