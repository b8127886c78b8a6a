"""The Arrow table of a shard: built, written, read back.

One record batch of ``tokens`` (list of uint16 or uint32), ``doc_id`` (string: the document's
content hash in hexadecimal, which stays the same wherever the document lies and however often
the corpus is prepared) and ``source`` (string, as a dictionary of all the corpus's sources).
Without compression, so that a reader maps it into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manta.config.errors import CorpusError

TokenDtype = Literal["uint16", "uint32"]


def token_dtype(vocab_size: int) -> TokenDtype:
    """The narrower type that holds every token id below `vocab_size`."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def schema(dtype: TokenDtype) -> Any:
    """The Arrow schema of a shard."""
    return pa.schema(
        [
            ("tokens", pa.list_(pa.from_numpy_dtype(np.dtype(dtype)))),
            ("doc_id", pa.string()),
            ("source", pa.dictionary(pa.int16(), pa.string())),
        ]
    )


def batch(
    tokens: Sequence[NDArray[np.unsignedinteger]],
    doc_ids: Sequence[str],
    source: int,
    sources: Sequence[str],
    dtype: TokenDtype,
) -> Any:
    """A record batch of documents of one source.

    Args:
        tokens: one array a document.
        doc_ids: one a document.
        source: index in `sources` of the documents' source.
        sources: names of all sources of the corpus.
        dtype: of the tokens.
    """
    offsets = np.zeros(len(tokens) + 1, dtype=np.int32)
    np.cumsum([len(document) for document in tokens], out=offsets[1:])
    values = np.concatenate(tokens, dtype=dtype) if tokens else np.empty(0, dtype)
    index = pa.array(np.full(len(tokens), source, dtype=np.int16))
    columns = [
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)),
        pa.array(doc_ids, pa.string()),
        pa.DictionaryArray.from_arrays(index, pa.array(sources, pa.string())),
    ]
    return pa.record_batch(columns, schema=schema(dtype))


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


def document_tokens(table: Any) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
    """All tokens of a shard as one array, and where each document ends in it (exclusive)."""
    column = table.column("tokens")
    offsets = column.offsets.to_numpy().astype(np.int64)
    return column.values.to_numpy()[offsets[0] : offsets[-1]], offsets[1:] - offsets[0]


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
