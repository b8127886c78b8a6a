"""The texts that filters leave of a unit, kept in the work folder until the corpus is finished.

Later passes read them in place of the input: a filter judges each document once, and a document
is found by its unit and row. A file has one entry for each row of the unit; rows that are no
document, or were dropped, have no text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from manta.storage.atomic import whole_file

SCHEMA = pa.schema([("part", pa.int32()), ("text", pa.large_string())])
BATCH_BYTES = 8 << 20


def write_texts(path: Path, rows: list[tuple[int, str | None]]) -> None:
    """Write the part and the text of each row of a unit."""
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1))
    with whole_file(path) as file, pa.ipc.new_file(file, SCHEMA, options=options) as writer:
        for batch in _batches(rows):
            parts, texts = zip(*batch, strict=True)
            columns = [pa.array(parts, pa.int32()), pa.array(texts, pa.large_string())]
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))


def read_texts(path: Path | str) -> Iterator[tuple[int, str | None]]:
    """Part and text of each row of a unit, as `write_texts` got them."""
    with pa.memory_map(str(path)) as mapped:
        file: Any = pa.ipc.open_file(mapped)
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)


def documents_in(path: Path | str) -> Iterator[str]:
    """The documents of a unit, in the order of the first pass."""
    return (text for _, text in read_texts(path) if text is not None)


def _batches(rows: list[tuple[int, str | None]]) -> Iterator[list[tuple[int, str | None]]]:
    batch, held = list[tuple[int, str | None]](), 0
    for row in rows:
        batch.append(row)
        held += len(row[1] or "")
        if held >= BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
