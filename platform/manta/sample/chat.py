"""Conversations, or pairs of them: a sample is a row of `length` tokens with some of them.

A row of a shard is a row of a batch, laid out when the corpus was prepared. It has whole
conversations (`packed`) or a window of their sequence (`manta.sample.windows`), which may begin
within one of them: ``tokens`` (list of
uint16 or uint32, without padding), ``starts`` (list of int32: where each conversation begins, the
first at 0) and ``supervised`` (list of int32: begin and end of each span of tokens that is trained
on, one pair after the other, ascending). The row's ``doc_id`` names its conversations, or its
pairs, joined by `+`. In rows of pairs each chosen conversation has the rejected one behind it.

Columns of a batch: ``tokens`` (samples, length), padded at the end; ``starts``, ragged, in which
the padding begins a document of its own; ``supervised``, ragged; ``lengths`` (samples,), int32,
tokens without padding. What counts is told by position, never by a token's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manta.sample import shard_file
from manta.sample.columns import Columns, Ragged
from manta.sample.padded import PackedRows, PaddedFormat
from manta.sample.tokens import TokenDtype, flat_starts, token_list, tokens_array

# Columns that hold places among the tokens.
MOVED = ("starts", "supervised")


@dataclass(frozen=True)
class Chat(PaddedFormat):
    """The format of rows of conversations."""

    name: ClassVar[str] = "chat"

    @property
    def schema(self) -> pa.Schema:
        """Columns of a shard, beside doc_id and source."""
        spans = pa.list_(pa.int32())
        return pa.schema(
            [("tokens", token_list(self.dtype)), ("starts", spans), ("supervised", spans)]
        )


class Pairs(Chat):
    """The format of rows of pairs: two conversations each, the chosen one and the rejected one."""

    name: ClassVar[str] = "pairs"


def supervised_mask(columns: Columns) -> NDArray[np.bool_]:
    """Which tokens are trained on, shape (samples, length)."""
    rows, length = columns["tokens"].shape
    spans: Ragged = columns["supervised"]
    # +1 where a span begins and -1 where it ends, in a row that is one longer: its sum is 1 within.
    steps = np.zeros((rows, length + 1), dtype=np.int8)
    row_of = np.repeat(np.arange(rows), spans.lengths)
    sign = np.tile(np.array([1, -1], np.int8), len(row_of) // 2)
    np.add.at(steps, (row_of, spans.flat), sign)
    mask: NDArray[np.bool_] = np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1] > 0
    return mask


def conversation_of(columns: Columns) -> NDArray[np.int64]:
    """The number, through all samples, of the conversation that a token is of: (samples, length).

    Padding has a number of its own.
    """
    begins = np.zeros(columns["tokens"].size, dtype=np.int64)
    begins[flat_starts(columns)] = 1
    found: NDArray[np.int64] = (np.cumsum(begins) - 1).reshape(columns["tokens"].shape)
    return found


# ----------------------------------------------------------------- conversations on the way to rows


def conversations_schema(dtype: TokenDtype) -> pa.Schema:
    """Columns of a table of conversations or pairs, one a row, before they are packed."""
    spans = pa.list_(pa.int32())
    return pa.schema([("tokens", token_list(dtype)), ("supervised", spans), ("starts", spans)])


def conversations_batch(
    tokens: Sequence[NDArray[np.unsignedinteger]],
    supervised: Sequence[Sequence[tuple[int, int]]],
    starts: Sequence[Sequence[int]],
    doc_ids: Sequence[str],
    source: int,
    sources: Sequence[str],
    dtype: TokenDtype,
) -> Any:
    """A record batch of conversations or pairs of one source.

    Args:
        tokens: one array for each of them.
        supervised: (begin, end) of each of its spans that are trained on.
        starts: where each of its conversations begins, the first at 0.
        doc_ids: one id for each of them.
        source: index in `sources` of their source.
        sources: names of all sources of the corpus.
        dtype: type of the tokens.
    """
    flat = [[bound for span in spans for bound in span] for spans in supervised]
    lists = [pa.array(list(map(list, given)), pa.list_(pa.int32())) for given in (flat, starts)]
    columns = [tokens_array(tokens, dtype), *lists]
    return shard_file.batch(columns, doc_ids, source, sources, conversations_schema(dtype))


def packed(table: Any, form: Chat, *, alone: bool = False) -> Any:
    """The rows of a shard, of a table of conversations or pairs of one source.

    Args:
        table: table of `conversations_schema`; none of them is longer than a row.
        form: format of the rows.
        alone: put one of them in each row.
    """
    laid = PackedRows.of(table, form.length, alone=alone)
    return laid.shard(table, form.schema, {name: laid.moved(table, name) for name in MOVED})
