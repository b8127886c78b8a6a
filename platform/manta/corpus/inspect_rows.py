"""What `inspect` checks and shows of packed rows: of conversations, of pairs, of labelled texts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from manta.corpus.manifest import PAIRS, Manifest, Shard, Vocabulary
from manta.sample import shard_file
from manta.sample.columns import from_arrow


def wrong_chats(table: Any, shard: Shard, manifest: Manifest, vocabulary: Vocabulary) -> str | None:
    """What breaks the contract of a shard of conversations or pairs; None if nothing does."""
    if wrong := _wrong_packing(table, shard, manifest, vocabulary):
        return wrong
    columns: Any = [from_arrow(table.column(name)) for name in ("tokens", "starts", "supervised")]
    tokens, starts, spans = columns
    for row, length in enumerate(tokens.lengths.tolist()):
        begins, bounds = starts[row : row + 1].flat, spans[row : row + 1].flat
        if not len(bounds) and manifest.is_windows:
            continue  # of a long message that is no answer
        if not len(bounds) or len(bounds) % 2 or (np.diff(bounds) < 0).any():
            return f"the supervised spans of row {row} are not one after the other"
        if bounds[0] < 1 or bounds[-1] > length:
            return f"row {row} has spans beyond its {length} tokens"
        if manifest.sample == PAIRS and not _are_pairs(begins, bounds):
            return f"the conversations of row {row} are no pairs with supervised answers"
    return None


def wrong_texts(table: Any, shard: Shard, manifest: Manifest, vocabulary: Vocabulary) -> str | None:
    """What breaks the contract of a shard of labelled texts; None if nothing does."""
    if wrong := _wrong_packing(table, shard, manifest, vocabulary):
        return wrong
    columns: Any = [from_arrow(table.column(name)) for name in ("starts", "labels")]
    starts, labels = columns
    if (starts.lengths != labels.lengths).any():
        row = int(np.flatnonzero(starts.lengths != labels.lengths)[0])
        return f"row {row} does not have one label for each of its texts"
    wrong_label = ~np.isfinite(labels.flat)
    if manifest.classes is not None:
        wrong_label = (labels.flat < 0) | (labels.flat >= len(manifest.classes))
    if wrong_label.any():
        return f"the label {labels.flat[wrong_label][0]} is none of the corpus's"
    return None


def _wrong_packing(
    table: Any, shard: Shard, manifest: Manifest, vocabulary: Vocabulary
) -> str | None:
    """What breaks the contract of packed rows in a shard, whatever their documents are."""
    if table.schema != shard_file.whole_schema(manifest.format_of_samples.schema):
        return f"its columns are {', '.join(map(str, table.schema))}"
    if table.num_rows * (manifest.row_length or 0) != shard.tokens:
        return f"{table.num_rows} rows, unlike the manifest"
    columns: Any = [from_arrow(table.column(name)) for name in ("tokens", "starts")]
    tokens, starts = columns
    if len(tokens.flat) and int(tokens.flat.max()) >= vocabulary.size:
        return f"token {int(tokens.flat.max())} is outside the vocabulary of {vocabulary.size}"
    for row, length in enumerate(tokens.lengths.tolist()):
        begins = starts[row : row + 1].flat
        if not 0 < length <= (manifest.row_length or 0):
            return f"row {row} has {length} tokens"
        if not len(begins) or begins[0] != 0 or (np.diff(begins) <= 0).any():
            return f"the {manifest.documents_are} of row {row} do not begin one after the other"
        if begins[-1] >= length:
            return f"row {row} has {manifest.documents_are} beyond its {length} tokens"
    return None


def _are_pairs(begins: Any, bounds: Any) -> bool:
    """Whether conversations are two by two, and each has a supervised span."""
    there = np.searchsorted(begins, bounds[::2], side="right") - 1
    return len(begins) % 2 == 0 and len(np.unique(there)) == len(begins)


def first_label(row: dict[str, Any], manifest: Manifest) -> str:
    """The label of a row's first text, for people."""
    label = row["labels"][0]
    return f"{label:g}" if manifest.classes is None else manifest.classes[label]


def first_of(row: dict[str, Any], documents: int) -> list[list[tuple[list[int], bool]]]:
    """The pieces of tokens of a row's first documents, and whether each is supervised."""
    ends = [*row["starts"], len(row["tokens"])]
    bounds = row.get("supervised", [])
    spans = list(zip(bounds[::2], bounds[1::2], strict=True))
    found = []
    for begin, end in pairwise(ends[: documents + 1]):
        mine = [(b - begin, e - begin) for b, e in spans if begin <= b < end]
        found.append(_pieces(row["tokens"][begin:end], mine))
    return found


def _pieces(tokens: list[int], spans: list[tuple[int, int]]) -> list[tuple[list[int], bool]]:
    """Tokens in order, divided where spans begin and end, and whether each piece is supervised."""
    found: list[tuple[list[int], bool]] = []
    at = 0
    for begin, end in spans:
        found += [(tokens[at:begin], False), (tokens[begin:end], True)]
        at = end
    return [piece for piece in [*found, (tokens[at:], False)] if piece[0]]
