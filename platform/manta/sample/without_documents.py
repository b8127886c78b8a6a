"""The rows of a shard without some documents, also where several documents lie in one row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from manta.config.errors import CorpusError
from manta.sample import shard_file

TOGETHER = "+"  # between the ids of documents in one row


class RemovedPiece(NamedTuple):
    """A document, or a part of one, that was removed from a row.

    Attributes:
        doc_id: id of the document.
        tokens: tokens of the piece; empty where a row has no tokens.
        supervised: number of the piece's tokens that are trained on.
        label: label of the piece; None without one.
    """

    doc_id: str
    tokens: list[int]
    supervised: int
    label: Any


def documents_in_row(doc_id: str) -> list[str]:
    """The ids of the documents in a row, in their order."""
    return doc_id.split(TOGETHER)


def without_documents(table: Any, forgotten: Collection[str]) -> tuple[Any, list[RemovedPiece]]:
    """A shard's record batch without the documents of some ids, and what was removed.

    Rows that hold other documents too keep these, in their order and without a gap.

    Args:
        table: the record batch of a shard.
        forgotten: ids of documents.

    Raises:
        CorpusError: if it can't be told which part of a row is a document's.
    """
    names = table.column("doc_id").to_pylist()
    kept, removed, begin = [table.slice(0, 0)], list[RemovedPiece](), 0
    for row, name in enumerate(names):
        ids = documents_in_row(name)
        if not any(one in forgotten for one in ids):
            continue
        kept.append(table.slice(begin, row - begin))
        begin = row + 1
        rest, pieces = _row_without(table.slice(row, 1), ids, forgotten)
        removed += pieces
        if rest is not None:
            kept.append(rest)
    kept.append(table.slice(begin))
    return shard_file.joined(kept), removed


def _row_without(
    row: Any, ids: list[str], forgotten: Collection[str]
) -> tuple[Any | None, list[RemovedPiece]]:
    """One row without some of its documents, None without any, and what was removed."""
    [values] = row.to_pylist()
    segments = _segments(values, ids)
    removed = [
        _piece(values, one, index, *segments[index])
        for index, one in enumerate(ids)
        if one in forgotten
    ]
    left = [index for index, one in enumerate(ids) if one not in forgotten]
    if not left:
        return None, removed
    changed = _joined(values, [segments[index] for index in left])
    if "labels" in values:
        changed["labels"] = [values["labels"][index] for index in left]
    changed["doc_id"] = TOGETHER.join(ids[index] for index in left)
    columns = [
        pa.array([changed[field.name]], field.type) if field.name in changed else row.column(at)
        for at, field in enumerate(row.schema)
    ]
    return pa.record_batch(columns, schema=row.schema), removed


def _segments(values: dict[str, Any], ids: list[str]) -> list[tuple[int, int]]:
    """Begin and end of each document's tokens in a row; a pair's are those of both answers."""
    tokens = values.get("tokens", [])
    if len(ids) == 1:
        return [(0, len(tokens))]
    starts: list[int] = values.get("starts") or []
    each, rest = divmod(len(starts), len(ids))
    if not each or rest:
        raise CorpusError(
            f"row {values['doc_id'][:40]}…: it can't be told which of its tokens are of which "
            "document: prepare the corpus again without the document"
        )
    begins = starts[::each]
    return list(zip(begins, [*begins[1:], len(tokens)], strict=True))


def _piece(values: dict[str, Any], doc_id: str, index: int, begin: int, end: int) -> RemovedPiece:
    spans = _spans(values.get("supervised") or [], begin, end)
    label = values["labels"][index] if "labels" in values else None
    counted = sum(spans[1::2]) - sum(spans[::2])
    return RemovedPiece(doc_id, values.get("tokens", [])[begin:end], counted, label)


def _joined(values: dict[str, Any], segments: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The columns that hold tokens, or places among them, of some segments end to end."""
    tokens, starts, spans = list[int](), list[int](), list[int]()
    for begin, end in segments:
        at = len(tokens) - begin
        starts += [start + at for start in values["starts"] if begin <= start < end]
        spans += [place + at for place in _spans(values.get("supervised") or [], begin, end)]
        tokens += values["tokens"][begin:end]
    found: dict[str, Any] = {"tokens": tokens, "starts": starts}
    return found | ({"supervised": spans} if "supervised" in values else {})


def _spans(bounds: list[int], begin: int, end: int) -> list[int]:
    """Those of some spans, as begin and end one after the other, that lie in a segment."""
    pairs = zip(bounds[::2], bounds[1::2], strict=True)
    return [place for pair in pairs if begin <= pair[0] < end for place in pair]
