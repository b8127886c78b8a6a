"""The second pass: tokenize each unit into one piece of a shard for every split.

A *piece* is a small shard of one unit and split, in the work folder. Workers write pieces in
parallel; `assemble` joins them into shards of the configured size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from manta.config.errors import CorpusError
from manta.corpus.canonical import TOKENIZER_FILE
from manta.corpus.documents import HASH_BYTES, SPLITS, Hashes, split_of
from manta.corpus.leftovers import piece_file, record_file, sealed_json
from manta.corpus.manifest import Split
from manta.corpus.tokenizer import ENCODE_BYTES, CorpusTokenizer, encoder
from manta.corpus.work_units import identified, records_left, rows
from manta.corpus.workspace import Workspace
from manta.sample import shard_file
from manta.sample.tokens import documents_batch
from manta.storage.atomic import whole_file, write_whole


def settings(
    workspace: Workspace, tokenizer: CorpusTokenizer, bounds: list[int], sources: list[str]
) -> dict[str, Any]:
    """The part of this pass's orders that is the same for all units."""
    return {
        "work": str(workspace.work),
        "tokenizer": str(workspace.tokenizer / TOKENIZER_FILE),
        "tokenizer_sha256": tokenizer.sha256,
        "begins_with": tokenizer.begins_with,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
        "dtype": tokenizer.dtype,
        "bounds": bounds,
        "sources": sources,
    }


def digest(hashes: Hashes) -> str:
    """Digest of a unit's documents, to check that both passes read the same."""
    return hashlib.sha256(hashes.tobytes()).hexdigest()


def encode_unit(order: dict[str, Any]) -> dict[str, Any]:
    """Tokenize one unit, and write its pieces and its record.

    `order` is that of `work_units.order`, with the pass's `settings`, `source` (index),
    `duplicates` (indices of documents to leave out) and `digest` (of the first pass).

    Raises:
        CorpusError: if the input has changed since the first pass, or the disk is full.
    """
    tool = encoder(
        order["tokenizer"],
        order["tokenizer_sha256"],
        tuple(order["begins_with"]),
        order["eos_id"],
        order["dtype"],
    )
    left_out = set(order["duplicates"])
    tokens: list[Any] = []
    identities: list[bytes] = []
    for batch in _batches(order, identities, left_out):
        tokens.extend(tool.encode(batch))
    hashes = same_hashes(order, identities)
    kept = hashes[[i for i in range(len(hashes)) if i not in left_out]]

    def documents(members: list[int]) -> tuple[Any, list[int]]:
        chosen = [tokens[member] for member in members]
        names = [kept[member].tobytes().hex() for member in members]
        table = documents_batch(chosen, names, order["source"], order["sources"], order["dtype"])
        return table, [len(members), sum(map(len, chosen))]

    counts, pieces = write_pieces(order, kept, documents)
    return write_record(
        order,
        {"splits": counts, "pieces": pieces, "has_padding": stands_in(order["pad_id"], tokens)},
    )


def write_record(order: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Write the record of a unit, which says that it is done; returns it, and the unit's bytes."""
    record = {"unit": order["unit"], "source": order["source"], **found}
    write_whole(record_file(Path(order["work"]), order["unit"]), sealed_json(record))
    return {**record, "bytes": order["bytes"]}


def take_records(
    order: dict[str, Any], take: Callable[[bytes, str, tuple[int, int]], None]
) -> None:
    """Hand on each record of a unit but duplicates: its hash, its text, its part and row in it.

    Raises:
        CorpusError: if the input has changed since the first pass.
    """
    identities = list[bytes]()
    for identity, text, place in records_left(order, identities):
        take(identity, text, place)
    same_hashes(order, identities)


def same_hashes(order: dict[str, Any], identities: list[bytes]) -> Hashes:
    """The hashes of a unit's documents, once they are found equal to those of the first pass.

    Raises:
        CorpusError: if they differ.
    """
    hashes = np.frombuffer(b"".join(identities), np.uint8).reshape(-1, HASH_BYTES)
    if digest(hashes) != order["digest"]:
        names = dict.fromkeys(file[2] for file, _, _ in order["parts"])
        raise CorpusError(
            f"the input changed while the corpus was being prepared, in one of: "
            f"{', '.join(names)}; run the same command again"
        )
    return hashes


def stands_in(token: int | None, documents: list[Any]) -> bool:
    """Whether a token stands in one of some documents."""
    return token is not None and any((document == token).any() for document in documents)


def _batches(
    order: dict[str, Any], identities: list[bytes], left_out: set[int]
) -> Iterator[list[str]]:
    """Texts to tokenize, `ENCODE_BYTES` at a time; appends all hashes to `identities`."""
    batch: list[str] = []
    held = 0
    for _, row in rows(order):
        identity = identified(row)
        if identity is None:
            continue
        identities.append(identity[0])
        if len(identities) - 1 in left_out:
            continue
        batch.append(str(row))
        held += identity[1]
        if held >= ENCODE_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def write_pieces(
    order: dict[str, Any], hashes: Hashes, make: Callable[[list[int]], tuple[Any, list[int]]]
) -> tuple[dict[Split, list[int]], dict[Split, str]]:
    """Write the unit's pieces, one for each split that has rows.

    Args:
        order: the unit's order.
        hashes: hash of the document of each row.
        make: called with indices of rows; gives their table and its counts.

    Returns:
        Counts of each split, and the SHA-256 of its piece.
    """
    counts: dict[Split, list[int]] = {}
    pieces: dict[Split, str] = {}
    split = split_of(hashes, order["bounds"])
    for index, name in enumerate(SPLITS):
        members = np.flatnonzero(split == index).tolist()
        if not members:
            continue
        table, counts[name] = make(members)
        with whole_file(piece_file(Path(order["work"]), order["unit"], name)) as file:
            pieces[name] = shard_file.write(file, table)[1]
    return counts, pieces
