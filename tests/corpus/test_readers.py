"""Files → rows: each format, each way in which a row or a file can be bad."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.config.corpus import CorpusConfig
from manta.corpus.documents import Problem
from manta.corpus.readers import read
from manta.corpus.sources import InputFile, resolve
from manta.corpus.work_units import order, plan, rows


def file(path: Path) -> InputFile:
    return InputFile(0, str(path), path.name, path.stat().st_size, "")


def everything(path: Path, kind: str, stop: int | None = None) -> list:
    return list(read(file(path), kind, "text", 0, stop))


def by_units(path: Path, kind: str, shard_tokens: int = 1) -> list:
    """All rows of a file, read in units as small as they get."""
    config = CorpusConfig.model_validate(
        {
            "out": "x",
            "sources": [{"name": "s", "format": kind, "paths": [str(path)]}],
            "tokenizer": {"vocab_size": 300},
            "shard_tokens": shard_tokens,
        }
    )
    files = resolve(config.sources)
    planned = plan(config, files)
    read = [row for unit in planned.units for _, row in rows(order(unit, files, config))]
    return [problem for _, problem in planned.problems] + read


def reasons(found: list) -> list:
    return [(item.row, item.reason) if isinstance(item, Problem) else item for item in found]


def test_a_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")  # the byte-order mark goes, the rest stays

    assert everything(path, "text") == ["one\r\ntwo\n"]


def test_invalid_utf8_in_a_text_names_the_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\nbad \xff here\nfine\n")

    assert everything(path, "text") == [
        Problem(1, "not valid UTF-8: byte 0xff at offset 9", "bad \\xff here")
    ]


@given(
    st.lists(st.sampled_from([b"", b" ", b"[", b'{"text": "a"}', b'{"text": "bb", "n": 1}'])),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.integers(1, 12),
)
def test_byte_ranges_read_each_line_once(tmp_path_factory, lines, newline, ended, shard_tokens):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    path.write_bytes(newline.join(lines) + (newline if ended and lines else b""))

    def texts(found: list) -> list:
        # A problem's row counts from the start of its part.
        return [item.reason if isinstance(item, Problem) else item for item in found]

    assert texts(by_units(path, "jsonl", shard_tokens)) == texts(everything(path, "jsonl"))


def test_a_file_of_unknown_size_is_read_to_its_end(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 3)
    config = CorpusConfig.model_validate(
        {
            "out": "x",
            "sources": [{"name": "s", "format": "jsonl", "paths": [str(path)]}],
            "tokenizer": {"vocab_size": 300},
        }
    )
    files = [InputFile(0, str(path), "a", 0, "")]

    (unit,) = plan(config, files).units

    assert [row for _, row in rows(order(unit, files, config))] == ["a"] * 3


def test_each_kind_of_bad_line_has_its_reason(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        b'{"text": "good"}',
        b"{not json",
        b"",
        b'["a list"]',
        b'{"body": "x", "id": 1}',
        b'{"text": 5}',
        b'{"text": null}',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
        b'{"text": "good too"}',
    ]
    path.write_bytes(b"\n".join(lines))

    found = reasons(everything(path, "jsonl"))

    assert found[0] == "good"
    assert found[1][0] == 1
    assert found[1][1].startswith("not valid JSON: Expecting property name")
    assert found[2] is None
    assert found[3:9] == [
        (3, "not a JSON object but a list"),
        (4, "no 'text' here, only 'body', 'id'"),
        (5, "'text' is not a text but a number"),
        (6, "'text' is not a text but null"),
        (7, "not valid UTF-8: byte 0xff at offset 10"),
        (8, "'text' has half of a surrogate pair, which isn't valid Unicode"),
    ]
    assert found[9][1].startswith("not valid JSON")
    assert found[10] == "good too"


def test_compressed_lines(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    content = b'{"text": "a"}\n{"text": "b"}\n' * 50_000
    path.write_bytes(gzip.compress(content))
    assert by_units(path, "jsonl") == ["a", "b"] * 50_000

    path.write_bytes(path.read_bytes()[:100])
    *_, last = everything(path, "jsonl")
    assert last.row is None
    assert last.reason.startswith("can't be read")


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)
def test_arrow_text_types_and_both_forms_of_the_file(tmp_path, kind):
    table = pa.table({"n": [1, 2, 3], "text": pa.array(["a", None, "c"]).cast(kind)})
    expected = ["a", (1, "'text' is null"), "c"]

    with pa.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream(str(tmp_path / "stream.arrow"), table.schema) as writer:
        writer.write_table(table)

    assert reasons(by_units(tmp_path / "file.arrow", "arrow")) == expected
    assert reasons(by_units(tmp_path / "stream.arrow", "arrow")) == expected


def test_arrow_batches_are_cut_into_parts(tmp_path):
    path = tmp_path / "a.arrow"
    schema = pa.schema([("text", pa.string())])
    with pa.ipc.new_file(str(path), schema) as writer:
        for text in "abc":
            writer.write_batch(pa.record_batch([[text]], schema=schema))

    assert list(read(file(path), "arrow", "text", 1, 2)) == ["b"]
    assert by_units(path, "arrow") == ["a", "b", "c"]


def test_parquet_row_groups_are_cut_into_parts(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [str(i) for i in range(5000)], "n": range(5000)})
    pq.write_table(table, path, row_group_size=2000)

    assert list(read(file(path), "parquet", "text", 1, 2)) == [str(i) for i in range(2000, 4000)]
    assert by_units(path, "parquet") == [str(i) for i in range(5000)]


def test_one_row_of_invalid_utf8_leaves_the_others(tmp_path):
    path = tmp_path / "a.parquet"
    raw = pa.array([b"good", b"\xff", b"fine"], pa.binary())
    bad = pa.StringArray.from_buffers(3, *raw.buffers()[1:])
    pq.write_table(pa.table({"text": bad}), path)

    assert reasons(everything(path, "parquet")) == [
        "good",
        (1, "not valid UTF-8: byte 0xff at offset 0"),
        "fine",
    ]


def test_files_that_are_not_what_they_should_be(tmp_path):
    junk = tmp_path / "junk"
    junk.write_bytes(b"PAR1 or not")
    numbers = tmp_path / "numbers"
    pq.write_table(pa.table({"text": [1]}), numbers)
    gone = InputFile(0, str(tmp_path / "gone"), "gone", 0, "")

    assert everything(junk, "parquet")[0].reason.startswith("can't be read: ")
    assert everything(junk, "arrow")[0].reason.startswith("can't be read: ")
    assert everything(numbers, "parquet")[0].reason == "column 'text' holds int64, not text"
    assert list(read(gone, "text", "text", 0, None)) == [
        Problem(None, "can't be read: No such file or directory")
    ]


def test_a_missing_column_is_found_while_planning(tmp_path):
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"junk")
    config = CorpusConfig.model_validate(
        {
            "out": "x",
            "sources": [{"name": "s", "format": "parquet", "paths": [str(tmp_path)]}],
            "tokenizer": {"vocab_size": 300},
        }
    )

    planned = plan(config, resolve(config.sources))

    assert not planned.units
    (_, column), (_, unreadable) = planned.problems
    assert column.reason == "no 'text' here, only 'body'"
    assert unreadable.reason.startswith("can't be read")


def test_json_lines_separators_inside_texts_do_not_split_them(tmp_path):
    path = tmp_path / "a.jsonl"
    text = "line\u2028separator and \x85 next line"
    path.write_text(json.dumps({"text": text}, ensure_ascii=False), encoding="utf-8")

    assert everything(path, "jsonl") == [text]


# Sources that are a part of their files, by a number in each row.

ROWS = [
    {"text": "easy", "about": {"score": 0.1}},
    {"text": "middling", "about": {"score": 0.5}},
    {"text": "hard", "about": {"score": 2}},
]


def write_rows(path: Path, rows: list) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def within(path: Path, kind: str, **only: float) -> list:
    """All rows of a source with this range."""
    source = {
        "name": "s",
        "format": kind,
        "paths": [str(path)],
        "only": {"column": "about.score", **only},
    }
    config = CorpusConfig.model_validate(
        {"out": "x", "sources": [source], "tokenizer": {"vocab_size": 300}}
    )
    files = resolve(config.sources)
    planned = plan(config, files)
    return [row for unit in planned.units for _, row in rows(order(unit, files, config))]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_ranges_cut_a_file_into_sources(tmp_path, kind):
    path = write_rows(tmp_path / f"a.{kind}", ROWS)

    assert within(path, kind, below=0.5) == ["easy", None, None]
    assert within(path, kind, at_least=0.5, below=1) == [None, "middling", None]
    assert within(path, kind, at_least=1) == [None, None, "hard"]


def test_a_row_without_a_number_is_a_problem(tmp_path):
    odd = [{"text": "a"}, {"text": "b", "about": {"score": "high"}}, {"about": {"score": 1}}]
    path = write_rows(tmp_path / "a.jsonl", odd)

    assert reasons(within(path, "jsonl", at_least=0)) == [
        (0, "no 'about.score' here, only 'text'"),
        (1, "'about.score' is not a number but a text"),
        (2, "no 'text' here, only 'about.score'"),
    ]


def test_numbers_that_are_none_are_problems(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [{"text": "a", "about": {"score": float("nan")}}])

    assert reasons(within(path, "parquet", at_least=0)) == [
        (0, "'about.score' is not a number but NaN")
    ]
