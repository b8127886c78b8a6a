"""Rows without a document: what is left of the row is what was there, without a gap."""

from __future__ import annotations

import pyarrow as pa
import pytest

from manta.config.errors import CorpusError
from manta.sample import shard_file
from manta.sample.chat import Pairs
from manta.sample.labelled import Labelled
from manta.sample.without_documents import without_documents


def shard(schema, rows):
    names = [row.pop("doc_id") for row in rows]
    columns = [pa.array([row[field.name] for row in rows], field.type) for field in schema]
    return shard_file.batch(columns, names, 0, ["made"], schema)


def test_a_pair_goes_with_both_answers():
    row = {"tokens": [*range(10, 20)], "starts": [0, 2, 5, 7], "supervised": [1, 2, 6, 7, 8, 10]}
    table = shard(
        Pairs("uint16", 12, 0).schema, [{**row, "doc_id": "a+b"}, {**row, "doc_id": "c+d"}]
    )
    left, [gone] = without_documents(table, {"a"})
    assert left.num_rows == 2
    first, second = left.to_pylist()
    assert second == table.to_pylist()[1]
    assert (first["doc_id"], first["tokens"]) == ("b", [15, 16, 17, 18, 19])
    assert (first["starts"], first["supervised"]) == ([0, 2], [1, 2, 3, 5])
    assert (gone.doc_id, gone.tokens, gone.supervised) == ("a", [10, 11, 12, 13, 14], 1)
    assert without_documents(table, {"c", "d"})[0].to_pylist() == table.to_pylist()[:1]


def test_a_text_goes_with_its_label():
    row = {"tokens": [1, 2, 3, 4, 5], "starts": [0, 1, 4], "labels": [2, 0, 1], "doc_id": "a+b+c"}
    table = shard(Labelled("uint16", 8, 0, False).schema, [row])
    left, [gone] = without_documents(table, {"b"})
    assert left.to_pylist() == [
        {"tokens": [1, 5], "starts": [0, 1], "labels": [2, 1], "doc_id": "a+c", "source": "made"}
    ]
    assert gone.label == 0


def test_a_row_that_can_not_be_taken_apart_is_told():
    row = {"tokens": [1, 2, 3], "starts": [0, 1, 2], "supervised": [], "doc_id": "a+b"}
    with pytest.raises(CorpusError, match=r"row a\+b…: it can't be told which of its tokens"):
        without_documents(shard(Pairs("uint16", 8, 0).schema, [row]), {"a"})
