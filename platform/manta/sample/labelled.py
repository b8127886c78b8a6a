"""Labelled texts: a sample is a row of `length` tokens with one or several texts, each whole.

A row of a shard is a row of a batch, packed when the corpus was prepared: ``tokens`` (list of
uint16 or uint32, without padding), ``starts`` (list of int32: where each text begins, the first at
0) and ``labels`` (a label for each text: the number of its class, int32, or a number to predict,
float64). The row's ``doc_id`` names its texts, joined by `+`.

Columns of a batch: ``tokens`` (samples, length), padded at the end; ``starts``, ragged, in which
the padding begins a document of its own; ``labels``, ragged; ``lengths`` (samples,), int32, tokens
without padding. Which token is a text's last one is told by position, never by a token's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manta.sample import shard_file
from manta.sample.padded import PackedRows, PaddedFormat
from manta.sample.tokens import TokenDtype, token_list, tokens_array


@dataclass(frozen=True)
class Labelled(PaddedFormat):
    """The format of rows of labelled texts.

    Attributes:
        numbers: whether labels are numbers to predict, not those of classes.
    """

    numbers: bool
    name: ClassVar[str] = "labelled"

    @property
    def schema(self) -> pa.Schema:
        """Columns of a shard, beside doc_id and source."""
        return pa.schema(
            [
                ("tokens", token_list(self.dtype)),
                ("starts", pa.list_(pa.int32())),
                ("labels", pa.list_(_label_type(self.numbers))),
            ]
        )


def _label_type(numbers: bool) -> pa.DataType:
    return pa.float64() if numbers else pa.int32()


# ------------------------------------------------------------------------ texts on the way to rows


def texts_batch(
    tokens: Sequence[NDArray[np.unsignedinteger]],
    labels: Sequence[float],
    doc_ids: Sequence[str],
    source: int,
    sources: Sequence[str],
    dtype: TokenDtype,
    *,
    numbers: bool,
) -> Any:
    """A record batch of labelled texts of one source.

    Args:
        tokens: one array for each text.
        labels: the number of each text's class, or the number to predict.
        doc_ids: one id for each text.
        source: index in `sources` of their source.
        sources: names of all sources of the corpus.
        dtype: type of the tokens.
        numbers: whether labels are numbers to predict.
    """
    kind = _label_type(numbers)
    schema = pa.schema([("tokens", token_list(dtype)), ("label", kind)])
    columns = [tokens_array(tokens, dtype), pa.array(labels, kind)]
    return shard_file.batch(columns, doc_ids, source, sources, schema)


def packed_texts(table: Any, form: Labelled, *, alone: bool) -> Any:
    """The rows of a shard, of a table of `texts_batch`; no text is longer than a row.

    Args:
        table: texts of one source.
        form: format of the rows.
        alone: put one text in each row.
    """
    laid = PackedRows.of(table, form.length, alone=alone)
    labels = table.column("label").to_pylist()
    listed = [[labels[index] for index in row] for row in laid.rows]
    return laid.shard(table, form.schema, {"starts": laid.places, "labels": listed})
