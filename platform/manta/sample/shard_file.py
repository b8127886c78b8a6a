"""The file of a shard: one record batch in an uncompressed Arrow IPC file, mapped by its readers.

Whatever the format, a shard has the columns of the format's schema, ``doc_id`` (string: what a row
is told by, wherever it lies and however often the corpus is made) and ``source`` (string, as a
dictionary of all the corpus's sources).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from manta.config.errors import CorpusError


def whole_schema(schema: Any) -> Any:
    """The Arrow schema of a shard, of the format's own."""
    source = pa.field("source", pa.dictionary(pa.int16(), pa.string()))
    return pa.schema([*schema, pa.field("doc_id", pa.string()), source])


def batch(
    columns: Sequence[Any], doc_ids: Sequence[str], source: int, sources: Sequence[str], schema: Any
) -> Any:
    """A record batch of rows of one source.

    Args:
        columns: Arrow arrays, as the format's schema has them.
        doc_ids: one id for each row.
        source: index in `sources` of the rows' source.
        sources: names of all sources of the corpus.
        schema: columns of the format.
    """
    index = pa.array(np.full(len(doc_ids), source, dtype=np.int16))
    ours = [
        pa.array(doc_ids, pa.string()),
        pa.DictionaryArray.from_arrays(index, pa.array(sources, pa.string())),
    ]
    return pa.record_batch([*columns, *ours], schema=whole_schema(schema))


def joined(batches: Sequence[Any]) -> Any:
    """One record batch of several, in order."""
    columns = [
        pa.concat_arrays([piece.column(index) for piece in batches])
        for index in range(batches[0].num_columns)
    ]
    return pa.record_batch(columns, schema=batches[0].schema)


def write(file: BinaryIO, table: Any) -> tuple[int, str]:
    """Write one record batch as an Arrow IPC file; returns its bytes and its SHA-256."""
    hashing = _Hashing(file)
    with pa.ipc.new_file(hashing, table.schema) as writer:
        writer.write_batch(table)
    return hashing.bytes, hashing.sha256.hexdigest()


def read(path: Path) -> Any:
    """The record batch of a shard, mapped into memory.

    Raises:
        CorpusError: if the file is missing or damaged.
    """
    try:
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as file:
            if file.num_record_batches != 1:
                raise CorpusError(f"{path}: {file.num_record_batches} record batches, not one")
            return file.get_batch(0)
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{path}: can't be read as a shard: {error}") from None


class _Hashing:
    """A file that sums up what is written to it, so that it need not be read again."""

    closed = False

    def __init__(self, file: BinaryIO):
        self._file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        self.bytes += self._file.write(content)
        return len(content)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """The file is its owner's to close."""
