"""`manta lineage`, `manta forget`: where things come from, and what a document went into."""

from __future__ import annotations

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
        import json  # --help does without it

        print(json.dumps(graph.as_json(), indent=1, ensure_ascii=False))
    else:
        from manta.show.lineage.lineage_lines import lineage_lines

        print("\n".join(lineage_lines(graph)))


def forget(
    corpus: Annotated[str, typer.Argument(help="Folder of the corpus that has the documents.")],
    documents: Annotated[
        list[str],
        typer.Argument(
            metavar="DOCUMENT",
            help="Id, beginning of an id, file with the text, or @FILE with an id a line.",
        ),
    ],
    out: Annotated[
        str | None, typer.Option("--out", help="Folder of a new corpus without the documents.")
    ] = None,
    runs: Annotated[
        str | None,
        typer.Option("--runs", help="Folder or URL of runs; show which have seen the documents."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which runs and checkpoints have seen documents, and make a corpus without these."""
    from dataclasses import asdict

    from manta.config.errors import CorpusError
    from manta.corpus.lineage.document_places import asked_ids, places_of
    from manta.corpus.manifest import Manifest

    asked = asked_ids(documents)
    places = places_of(corpus, Manifest.read(corpus), asked)
    if out is None and not places:
        raise CorpusError(f"{corpus}: has none of these documents")
    ids = sorted({place.doc_id for place in places})
    found: dict[str, object] = {"documents": [asdict(place) for place in places]}
    lines = [f"document {p.doc_id}: {p.split}, source {p.source}, {p.file}" for p in places]
    if runs is not None:
        from manta.show.lineage.seen_documents import seen_in, seen_json, seen_lines

        seen = seen_in(runs, ids or asked)
        found["runs"] = seen_json(seen)
        lines += seen_lines(seen)
    if out is not None:
        from manta.corpus.lineage.forgetting import forget as make

        made = make(corpus, asked, out)
        found["corpus"] = {"folder": out, "fingerprint": made.fingerprint}
        lines.append(
            f"corpus without them: {out} (fingerprint {made.fingerprint[:12]}…), "
            f"{len(ids):,} fewer {made.documents_are}"
        )
    import json  # --help does without it

    print(json.dumps(found, indent=1) if as_json else "\n".join(lines))
