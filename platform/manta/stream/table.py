"""The shards of one split as a table that processes share: what a reader needs of a manifest.

A manifest of a million shards takes seconds to read and check, and a gigabyte as objects, in each
process of a node that reads: ranks, and the read workers of each. So the first such process writes
a table to the node's cache, under the corpus's fingerprint, and the others map it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from manta.config.errors import CorpusError, StreamError
from manta.config.urls import is_url, join
from manta.corpus.manifest import MANIFEST, Manifest, Shard, Split
from manta.sample.format import SplitSize
from manta.storage.atomic import whole_file
from manta.storage.cache import node_folder

# Tables of at least this many shards are cached; a smaller manifest is read in 0.1 s.
MANY_SHARDS = 10_000
# The fingerprint is within the first bytes of a manifest as Manta writes it.
MANIFEST_START = 4096
FORMAT = "2"  # version of the table's columns; part of the file's name
SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("documents", pa.int64()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("source", pa.string()),
        ("first", pa.int64()),
    ]
)


class ShardTable:
    """The shards of one split, in the order of their tokens.

    Attributes:
        split: the shards' split.
        bounds: token offset of each shard, and of the end of the last: shape (shards + 1,).
    """

    def __init__(self, table: pa.Table, split: Split):
        self._table = table.combine_chunks()
        self.split: Split = split
        # The last row is no shard: it has the offset of the end.
        self.bounds = _numbers(self._table.column("first").chunk(0))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> Shard:
        if not 0 <= index < len(self):
            raise IndexError(f"shard {index} of {len(self)}")
        row: dict[str, Any] = self._table.slice(index, 1).to_pylist()[0]
        del row["first"]
        return Shard(split=self.split, **row | {"source": row["source"] or None})

    @cached_property
    def row_bounds(self) -> NDArray[np.int64]:
        """Number of rows before each shard, and of all rows: shape (shards + 1,)."""
        rows = _numbers(self._table.column("documents").chunk(0))
        return np.concatenate([[0], np.cumsum(rows[:-1])])

    @property
    def size(self) -> SplitSize:
        """Rows and tokens of the split."""
        return SplitSize(int(self.row_bounds[-1]), int(self.bounds[-1]))

    @classmethod
    def of(cls, manifest: Manifest, split: Split) -> ShardTable:
        """The table of one split of a manifest."""
        return cls.of_shards(manifest.shards_of(split), split)

    @classmethod
    def of_shards(cls, shards: Iterable[Shard], split: Split) -> ShardTable:
        """The table of shards that are all of one split."""
        return cls(_table(shards), split)

    @classmethod
    def on_node(cls, folder: str, fingerprint: str, split: Split) -> ShardTable:
        """The table of a corpus that has this fingerprint, from this node's cache if possible.

        Raises:
            StreamError: if the corpus in `folder` has another fingerprint by now.
            CorpusError: if its manifest can't be read.
        """
        kept = node_folder() / "tables" / f"{fingerprint}-{split}-{FORMAT}.arrow"
        if kept.exists() and _fingerprint(folder) == fingerprint:
            return _mapped(kept, split)
        manifest = Manifest.read(folder)
        if manifest.fingerprint != fingerprint:
            raise StreamError(
                f"{folder}: the corpus has the fingerprint {manifest.fingerprint[:12]}…, but the "
                f"run was started on {fingerprint[:12]}…: it was prepared anew since; put the old "
                "corpus back, or start another run"
            )
        made = cls.of(manifest, split)
        if len(made) >= MANY_SHARDS:
            made._keep(kept)
        return made

    def _keep(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file, pa.ipc.new_file(file, SCHEMA) as writer:
            writer.write_table(self._table)


def _table(shards: Iterable[Shard]) -> pa.Table:
    rows = list(shards)
    columns = [
        _strings([*(shard.file for shard in rows), ""]),
        _integers([*(shard.documents for shard in rows), 0]),
        _integers([*(shard.tokens for shard in rows), 0]),
        _integers([*(shard.bytes for shard in rows), 0]),
        _strings([*(shard.sha256 for shard in rows), ""]),
        _strings([*(shard.source or "" for shard in rows), ""]),
        _integers(np.cumsum([0, *(shard.tokens for shard in rows)])),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


# Arrays are converted by their buffers, as `pa.array` and `to_numpy` import pandas, which would
# take 0.4 s of each command that opens a corpus.
def _numbers(array: pa.Array) -> NDArray[np.int64]:
    values = np.frombuffer(array.buffers()[1], dtype=np.int64)
    return values[array.offset : array.offset + len(array)]


def _integers(values: ArrayLike) -> pa.Array:
    array = np.asarray(values, dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(array), [None, pa.py_buffer(array)])


def _strings(values: list[str]) -> pa.Array:
    encoded = [value.encode() for value in values]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(
        len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))
    )


def _mapped(path: Path, split: Split) -> ShardTable:
    try:
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as file:
            return ShardTable(file.read_all(), split)
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(
            f"{path}: can't be read: {error}; remove it: it is made anew from the manifest"
        ) from None


def _fingerprint(folder: str) -> str | None:
    """The fingerprint of a corpus, from the first bytes of its manifest; None if it isn't found."""
    path = join(folder, MANIFEST)
    try:
        with _opened(path) as file:
            found = re.search(rb'"fingerprint": "([0-9a-f]{64})"', file.read(MANIFEST_START))
    except OSError:
        return None  # Manifest.read, which is called next, raises the error
    return found[1].decode() if found else None


def _opened(path: str) -> BinaryIO:
    if not is_url(path):
        return Path(path).open("rb")
    from manta.corpus.sources import open_input  # slow to import, and only URLs need it

    return open_input(path)
