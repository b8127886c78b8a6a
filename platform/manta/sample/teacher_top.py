"""What a teacher says of each token of a sample: its most likely tokens, and the rest together.

Columns of a batch beside those of the corpus's own format, where token i's entries are of what
follows it: ``teacher_tokens`` (samples, length, count), ``teacher_log_probs`` likewise, float32,
logarithms of their probabilities at the temperature that they were computed at; and
``teacher_tail`` (samples, length), float32, the logarithm of the probability of all other tokens
together.
"""

from __future__ import annotations

import pyarrow as pa

from manta.sample.rows import RowFormat

TOKENS, LOG_PROBS, TAIL = "teacher_tokens", "teacher_log_probs", "teacher_tail"


def teacher_top(length: int, count: int, vocabulary: int) -> RowFormat:
    """The format of rows with these columns.

    Args:
        length: tokens of a sample.
        count: tokens of which a probability is kept.
        vocabulary: entries of the teacher's vocabulary, which decides the type of tokens.
    """
    token = pa.uint16() if vocabulary <= 2**16 else pa.uint32()
    columns = {
        TOKENS: pa.list_(pa.list_(token, count), length),
        LOG_PROBS: pa.list_(pa.list_(pa.float32(), count), length),
        TAIL: pa.list_(pa.float32(), length),
    }
    return RowFormat("teacher_top", pa.schema(list(columns.items())))


def bytes_a_token(count: int, vocabulary: int) -> int:
    """What a token takes on disk."""
    return count * (4 + (2 if vocabulary <= 2**16 else 4)) + 4
