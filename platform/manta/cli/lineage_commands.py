"""`manta lineage`, `manta forget`: where things come from, and what a document went into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def lineage(
    place: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RUN|CORPUS",
            help="Folder or URL of an exported model, a run or a corpus; with --of, of many runs.",
        ),
    ],
    of: Annotated[
        str | None,
        typer.Option(
            "--of",
            metavar="FILE",
            help="Show which runs below the folder were trained on this file instead; a file, or "
            "the SHA-256 of its content.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    output: Annotated[Path | None, typer.Option(help="HTML page to write instead.")] = None,
) -> None:
    """Show where a model, run or corpus comes from: runs, corpora, filters, files with hashes."""
    if of is None:
        from manta.show.lineage.trace import trace

        graph = trace(place)
    else:
        from manta.show.lineage.file_uses import uses_of

        graph = uses_of(of, place)
    if output is not None:
        from manta.show.lineage.lineage_page import write_lineage

        print(f"page: {write_lineage(graph, output)}")
    elif as_json:
        print(json.dumps(graph.as_json(), indent=1, ensure_ascii=False))
    else:
        from manta.show.lineage.lineage_lines import lineage_lines

        print("\n".join(lineage_lines(graph)))
