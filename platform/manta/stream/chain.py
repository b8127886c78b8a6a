"""The hash chain of a ledger: a digest of all its rows, and of the config each was trained by.

A row's digest covers the digest before it, every column of the row, and the *binding* of the run
that trained it (see `manta.record.identity`). So the digest of the last row stands for all: if a
row is changed or removed, also at the end, or a config is replaced, the digests don't match. Each
part of a ledger records the digests at its start and end; a checkpoint records that of its step.
The chain detects accidents, not forgery: anyone can compute a new one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

# The digest before the first row, and after rows of older versions, which wrote no digests.
START = "0" * 64
_KEY = b"manta.chain"


@dataclass(frozen=True)
class Link:
    """The digests by which a part of a ledger continues the parts before it.

    Attributes:
        binding: digest of config and corpus that the part's rows were trained by.
        before: the chain's digest before the part's first row.
        after: the chain's digest after the part's last row.
    """

    binding: str
    before: str
    after: str

    @classmethod
    def of(cls, table: pa.Table, binding: str, before: str) -> Link:
        """The link of the rows of a table."""
        return cls(binding, before, chained(table, binding, before))

    @classmethod
    def on(cls, table: pa.Table) -> Link | None:
        """The link in a table's metadata; None if there is none.

        Raises:
            ValueError: if the metadata isn't what `put_on` wrote.
        """
        text = (table.schema.metadata or {}).get(_KEY)
        if text is None:
            return None
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(str(error)) from None

    def put_on(self, table: pa.Table) -> pa.Table:
        """The table with this link in its metadata."""
        return table.replace_schema_metadata({_KEY: json.dumps(asdict(self))})


def chained(table: pa.Table, binding: str, before: str) -> str:
    """The chain's digest after the rows of a table, of shape (rows, 8); it covers all columns."""
    columns = [column.to_numpy().astype("<u8").view("<i8") for column in table.columns]
    rows = np.ascontiguousarray(np.stack(columns, axis=1)).tobytes()
    width, bound, last = 8 * len(columns), binding.encode(), bytes.fromhex(before)
    for at in range(0, len(rows), width):
        last = hashlib.sha256(b"%b%b%b" % (last, bound, rows[at : at + width])).digest()
    return last.hex()
