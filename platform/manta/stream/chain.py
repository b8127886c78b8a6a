"""The chain of a ledger: a digest of all its rows, and of what each was trained by.

Link by link, a row's digest covers the one before it, the row with every column, and the
*binding* of the run that trained it (see `manta.record.identity`). So the digest of the last row
stands for all of them: none can be changed, left out or taken away at the end, and no config put
in the place of another, without a trace. Each part of a ledger says the digests at its begin and
end; a checkpoint says that of its step. It detects accidents; who wants to deceive can make it
anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

# Before the first row, and after rows of older versions, which wrote no digests.
START = "0" * 64
_KEY = b"manta.chain"


@dataclass(frozen=True)
class Link:
    """How a part hangs on what is before it.

    Attributes:
        binding: digest of config and corpus that its rows were trained by.
        before: the chain's digest before its first row.
        after: the chain's digest after its last row.
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
        """The link that was put on a table; None if it has none.

        Raises:
            ValueError: if it is none that was put there.
        """
        text = (table.schema.metadata or {}).get(_KEY)
        if text is None:
            return None
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(str(error)) from None

    def put_on(self, table: pa.Table) -> pa.Table:
        """The table with this link."""
        return table.replace_schema_metadata({_KEY: json.dumps(asdict(self))})


def chained(table: pa.Table, binding: str, before: str) -> str:
    """The chain's digest after the rows of a table: shape (rows, 8), every column counts."""
    columns = [column.to_numpy().astype("<u8").view("<i8") for column in table.columns]
    rows = np.ascontiguousarray(np.stack(columns, axis=1)).tobytes()
    width, head, last = 8 * len(columns), binding.encode(), bytes.fromhex(before)
    for at in range(0, len(rows), width):
        last = hashlib.sha256(b"%b%b%b" % (last, head, rows[at : at + width])).digest()
    return last.hex()
