"""A corpus without some documents of another one: all others keep their split and shard.

Shards that have none of the documents are links to those of the other corpus. So the new one takes
little room and time, and what is left in it is what was there, to the bit.
"""

from __future__ import annotations

import io
import os
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from manta.config.errors import CorpusError
from manta.config.urls import is_url
from manta.corpus.filters.dropped import DROPPED
from manta.corpus.lineage.document_places import places_of
from manta.corpus.lineage.origin import Origin, parent_of
from manta.corpus.manifest import (
    LABELLED,
    PACKED,
    TOKENS,
    Counts,
    Manifest,
    Shard,
    Split,
)
from manta.corpus.tokenizer import decode
from manta.corpus.workspace import CONTEXT, QUARANTINE
from manta.sample import shard_file
from manta.sample.without_documents import RemovedPiece, without_documents
from manta.storage.atomic import link, sync_folder, whole_file, write_whole

FORGOTTEN = "forgotten"


class Removed(NamedTuple):
    """What a source loses in a split."""

    split: Split
    source: str
    pieces: list[RemovedPiece]


def forget(folder: str, documents: Sequence[str], out: str) -> Manifest:
    """Make a corpus without some documents in the new folder `out`; returns its manifest.

    Args:
        folder: folder of the corpus that has the documents.
        documents: ids, or beginnings of ids, of the documents.
        out: folder of the new corpus, which appears whole or not at all.

    Raises:
        CorpusError: if a document isn't there, or nothing would be left to train on.
    """
    if is_url(folder):
        raise CorpusError(f"{folder}: copy the corpus into a folder first")
    source, target = Path(folder).expanduser(), Path(out).expanduser()
    manifest = Manifest.read(source)
    _check_can(folder, manifest)
    places = places_of(folder, manifest, documents)
    _check_found(folder, documents, {place.doc_id for place in places})
    if target.exists():
        raise CorpusError(f"{out}: is there already; choose another folder")
    ids = {place.doc_id for place in places}
    aside = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        made = _write(source, manifest, ids, {place.file for place in places}, aside)
        parent = parent_of("forgets", folder, manifest.fingerprint)
        parent = parent.model_copy(update={"forgotten": sorted(ids)})
        Origin(fingerprint=made.fingerprint, parents=[parent]).write(aside)
        made.write(aside)
        os.rename(aside, target)
        sync_folder(target.absolute().parent)
    except OSError as error:
        raise CorpusError(f"{out}: can't be written: {error.strerror}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return made


def _check_can(folder: str, manifest: Manifest) -> None:
    remedy = "remove the documents from its sources, and prepare it again"
    if manifest.is_windows:
        raise CorpusError(f"{folder}: its rows cut conversations (chat.packing: windows): {remedy}")
    if any(shard.source is None for shard in manifest.shards):
        raise CorpusError(f"{folder}: an older version of Manta prepared it: {remedy}")


def _check_found(folder: str, documents: Sequence[str], found: Collection[str]) -> None:
    lacking = [one for one in documents if not any(each.startswith(one) for each in found)]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise CorpusError(
            f"{folder}: has no document {', '.join(lacking[:3])}{more}: an id is that of the text "
            "as filters left it (manta inspect --dropped shows those that filters dropped)"
        )


def _write(
    source: Path, manifest: Manifest, ids: Collection[str], touched: Collection[str], out: Path
) -> Manifest:
    """Write everything but manifest and origin; returns the manifest."""
    shards, removed = list[Shard](), list[Removed]()
    for shard in manifest.shards:
        if shard.file not in touched:
            link(source / shard.file, out / shard.file)
            shards.append(shard)
            continue
        table = shard_file.read(source / shard.file)
        name = str(shard.source)
        rest, pieces = without_documents(table, ids)
        removed.append(Removed(shard.split, name, pieces))
        if rest.num_rows:
            shards.append(_rewritten(shard, rest, manifest, out))
    for name in (*manifest.tokenizer_files, QUARANTINE):
        if (source / name).exists():
            link(source / name, out / name)
    _write_tables(source, ids, out)
    made = manifest.model_copy(
        update={
            "shards": shards,
            "counts": _counts(source, manifest, removed),
            "dropped": manifest.dropped
            | {FORGOTTEN: manifest.dropped.get(FORGOTTEN, 0) + len(ids)},
        }
    ).sealed()
    if not made.tokens_of("train"):
        raise CorpusError(f"{source}: without these documents there is nothing left to train on")
    return made


def _rewritten(shard: Shard, table: Any, manifest: Manifest, out: Path) -> Shard:
    with whole_file(out / shard.file) as file:
        size, sha256 = shard_file.write(file, table)
    tokens = table.num_rows
    if manifest.sample == TOKENS:
        tokens = pc.sum(pc.list_value_length(table.column("tokens"))).as_py()
    elif manifest.sample in PACKED:
        tokens *= int(manifest.row_length or 1)
    rows = {"documents": table.num_rows, "tokens": tokens}
    return shard.model_copy(update={**rows, "bytes": size, "sha256": sha256})


def _counts(
    source: Path, manifest: Manifest, removed: Sequence[Removed]
) -> dict[Split, dict[str, Counts]]:
    """The counts of all sources, less what was removed."""
    counts = {split: dict(found) for split, found in manifest.counts.items()}
    for split, name, pieces in removed:
        before = counts[split][name]
        less: dict[str, Any] = {
            "documents": before.documents - len(pieces),
            "tokens": before.tokens - sum(len(one.tokens) or 1 for one in pieces),
        }
        if before.bytes is not None:
            less["bytes"] = before.bytes - _text_bytes(source, manifest, pieces)
        if before.supervised is not None:
            less["supervised"] = before.supervised - sum(one.supervised for one in pieces)
        if before.labels is not None:
            lost = Counter(_label(manifest, one.label) for one in pieces)
            less["labels"] = {k: v - lost[k] for k, v in before.labels.items()}
        counts[split][name] = before.model_copy(update=less)
    return counts


def _label(manifest: Manifest, label: Any) -> str:
    if manifest.sample == LABELLED and manifest.classes is not None:
        return str(manifest.classes[label])
    return str(label)


def _text_bytes(source: Path, manifest: Manifest, pieces: Sequence[RemovedPiece]) -> int:
    """Bytes of the texts of some documents, by decoding them."""
    assert manifest.tokenizer_file is not None
    begin = len(manifest.begins_with)
    tokens = [one.tokens[begin:-1] for one in pieces]
    texts = decode(source, manifest.tokenizer_file, tokens)
    return sum(len(text.encode()) for text in texts)


def _write_tables(source: Path, ids: Collection[str], out: Path) -> None:
    """The records beside a corpus's shards, without the documents and what they say of them."""
    for name in (CONTEXT, DROPPED):
        if not (source / name).exists():
            continue
        rows = [row for row in pq.read_table(source / name).to_pylist() if row["doc_id"] not in ids]
        for row in rows:
            if row.get("like") in ids:
                row["like_text"] = None
        schema = pq.read_schema(source / name)
        content = io.BytesIO()
        pq.write_table(schema.empty_table().from_pylist(rows, schema=schema), content)
        write_whole(out / name, content.getvalue())
