"""Where documents lie in a corpus: split, source, shard, row, and the samples cut from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manta.config.errors import CorpusError
from manta.corpus.documents import content_hash
from manta.corpus.manifest import TOKENS, Manifest, Split
from manta.corpus.remote import local_shard
from manta.sample import shard_file
from manta.sample.without_documents import TOGETHER

# A whole id in hexadecimal, and the fewest characters of its beginning that stand for it.
ID, FEWEST = re.compile(r"[0-9a-f]{32}"), 8
LIST = "@"


@dataclass(frozen=True)
class DocumentPlace:
    """A row of a corpus that has a document, or a part of one.

    Attributes:
        doc_id: id of the document.
        split: split that the row is in.
        source: source that the row is of.
        file: name of the row's shard.
        row: number of the row in its split.
        begin: number of tokens in the split before the row.
        end: number of tokens in the split up to the row's end.
    """

    doc_id: str
    split: Split
    source: str
    file: str
    row: int
    begin: int
    end: int

    def samples(self, sample: str, length: int) -> range:
        """Ids of the samples that have tokens of the row.

        Args:
            sample: format of the corpus's samples.
            length: tokens of a sample.
        """
        if sample != TOKENS:
            return range(self.row, self.row + 1)
        return range(self.begin // length, (self.end - 1) // length + 1)


def asked_ids(documents: Sequence[str]) -> list[str]:
    """Ids, or beginnings of ids, of documents that a user names.

    Each is an id, the beginning of one, a file with the text of a document, or `@FILE` with an id
    a line.

    Raises:
        CorpusError: if one is none of these.
    """
    found: list[str] = []
    for document in documents:
        if document.startswith(LIST):
            found += [_id(line) for line in _read(document[1:]).decode().split()]
        elif Path(document).is_file():
            found.append(content_hash(_read(document)).hex())
        else:
            found.append(_id(document))
    return list(dict.fromkeys(found))


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: can't be read: {error.strerror}") from None


def _id(text: str) -> str:
    if len(text) < FEWEST or re.search(r"\s", text):
        raise CorpusError(
            f"'{text}': give a document by its id (manta inspect shows some), by {FEWEST} or more "
            "characters of its beginning, by a file with its text, or many by @FILE with an id a "
            "line"
        )
    return text


def places_of(folder: str, manifest: Manifest, asked: Sequence[str]) -> list[DocumentPlace]:
    """Every row of a corpus that has one of some documents, in the order of shards.

    Args:
        folder: folder or URL of the corpus.
        manifest: manifest of the corpus.
        asked: whole ids, or beginnings of ids.

    Raises:
        CorpusError: if a shard can't be read, or the beginning of an id is that of several.
    """
    found: list[DocumentPlace] = []
    rows: dict[str, int] = {}
    tokens: dict[str, int] = {}
    for shard in manifest.shards:
        first, before = rows.get(shard.split, 0), tokens.get(shard.split, 0)
        rows[shard.split], tokens[shard.split] = first + shard.documents, before + shard.tokens
        held = local_shard(folder, shard)
        try:
            table = shard_file.read(held.path)
            for row, doc_id in _matches(table.column("doc_id"), asked):
                begin, end = _tokens_of(table, row, manifest)
                found.append(
                    DocumentPlace(
                        doc_id=doc_id,
                        split=shard.split,
                        source=table.column("source")[row].as_py(),
                        file=shard.file,
                        row=first + row,
                        begin=before + begin,
                        end=before + end,
                    )
                )
        finally:
            held.release()
    _check_clear(asked, found)
    return found


def _matches(names: Any, asked: Sequence[str]) -> list[tuple[int, str]]:
    """Rows of a shard with a document that was asked for, each with its whole id."""
    split = pc.split_pattern(names, TOGETHER)
    flat, parents = split.flatten(), pc.list_parent_indices(split)
    whole = [one for one in asked if ID.fullmatch(one)]
    mask = pc.is_in(flat, value_set=pa.array(asked, pa.string()))
    for one in asked if len(whole) < len(asked) else ():
        if not ID.fullmatch(one):
            mask = pc.or_(mask, pc.starts_with(flat, one))
    chosen = pc.indices_nonzero(mask).to_pylist()
    return [(parents[index].as_py(), flat[index].as_py()) for index in chosen]


def _tokens_of(table: Any, row: int, manifest: Manifest) -> tuple[int, int]:
    """Where a row's tokens begin and end among those of its shard; as rows in other formats."""
    if manifest.sample != TOKENS:
        return row, row + 1
    offsets = table.column("tokens").offsets
    first, begin, end = (offsets[at].as_py() for at in (0, row, row + 1))
    return begin - first, end - first


def _check_clear(asked: Sequence[str], found: Sequence[DocumentPlace]) -> None:
    for one in asked:
        ids = {place.doc_id for place in found if place.doc_id.startswith(one)}
        if one not in ids and len(ids) > 1:
            raise CorpusError(
                f"'{one}' is the beginning of {len(ids)} ids, such as "
                f"{' and '.join(sorted(ids)[:2])}: give more of it"
            )
