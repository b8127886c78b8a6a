"""What a reference says of the answers of each row of pairs, computed beforehand.

A column of a batch beside those of pairs: ``reference``, ragged, float64: the log-probability of
each conversation's supervised tokens in nats, the chosen one and the rejected one of each pair.
"""

from __future__ import annotations

import pyarrow as pa

from manta.sample.rows import RowFormat

REFERENCE = "reference"
# Of a row on disk, about: some four pairs.
BYTES_A_ROW = 64


def answer_log_probs() -> RowFormat:
    """The format of rows with this column."""
    return RowFormat(REFERENCE, pa.schema([(REFERENCE, pa.list_(pa.float64()))]))
