"""Files that are not quite what their format says: read rightly, or told for what they are."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from manta.config.corpus import CorpusConfig
from manta.config.errors import CorpusError
from manta.corpus import readers, worker_pool
from manta.corpus.documents import Problem
from manta.corpus.prepare import prepare
from manta.corpus.sources import resolve
from manta.corpus.work_units import order, plan, rows

LINES = b'{"text": "one"}\n{"text": "zwei \xc3\xbc"}\n'
TEXTS = ["one", "zwei ü"]
UNIT_TOKENS = 2  # a unit of 8 bytes: every file of the tests is cut, where it can be


def read_all(path: Path, kind: str, column: str = "text") -> list[str]:
    """Each document, and each problem as it is told, through the plan and the readers."""
    source = {"name": "s", "format": kind, "paths": [str(path)], "text_column": column}
    config = CorpusConfig.model_validate(
        {
            "out": "x",
            "sources": [source],
            "tokenizer": {"vocab_size": 300},
            "shard_tokens": UNIT_TOKENS,
        }
    )
    files = resolve(config.sources)
    planned = plan(config, files)
    found: list[Any] = [problem for _, problem in planned.problems]
    found += [row for unit in planned.units for _, row in rows(order(unit, files, config))]
    return [_told(item) if isinstance(item, Problem) else item for item in found]


def _told(problem: Problem) -> str:
    place = "file" if problem.row is None else f"row {problem.row}"
    return f"{place}: {problem.reason}"


def arrow(codec: str) -> Callable[[bytes], bytes]:
    def compress(content: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as out:
            out.write(content)
        return sink.getvalue().to_pybytes()

    return compress


def tar(content: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        info = tarfile.TarInfo("a.jsonl")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def zipped(content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.jsonl", content)
    return sink.getvalue()


COMPRESSED = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": arrow("zstd"),
    "lz4": arrow("lz4"),
}


@pytest.mark.parametrize("ending", COMPRESSED)
@pytest.mark.parametrize("named", ["known", "none", "unknown"])
def test_compressed_text_is_read_whatever_its_name(tmp_path, ending, named):
    path = tmp_path / {"known": f"a.jsonl.{ending}", "none": "a", "unknown": "a.x"}[named]
    path.write_bytes(COMPRESSED[ending](LINES))

    assert read_all(path, "jsonl") == TEXTS
    assert read_all(path, "text") == [LINES.decode()]


@pytest.mark.parametrize("ending", COMPRESSED)
def test_compressed_text_that_is_cut_short_is_told(tmp_path, ending):
    path = tmp_path / f"a.jsonl.{ending}"
    whole = COMPRESSED[ending](b"".join(b'{"text": "%d"}\n' % i for i in range(9000)))
    path.write_bytes(whole[: len(whole) // 2])

    (last,) = read_all(path, "jsonl")[-1:]

    assert last.startswith("file: can't be read: ")


ARRAY = (
    "a JSON array, not one JSON object a line: convert it, as by 'jq -c .[] old.json > new.jsonl'"
)
OBJECT = (
    "a JSON object over several lines, not one a line: convert it, as by "
    "'jq -c . old.json > new.jsonl'"
)
MISFITS = {
    "array in a line": (json.dumps([{"text": "a"}] * 9).encode(), "jsonl", ARRAY),
    "array over lines": (json.dumps([{"text": "a"}] * 9, indent=1).encode(), "jsonl", ARRAY),
    "array behind a mark": (codecs.BOM_UTF8 + b"\n [\n" + LINES, "jsonl", ARRAY),
    "array, compressed": (gzip.compress(b"[" + LINES), "jsonl", ARRAY),
    "object over lines": (json.dumps({"text": "a", "n": 1}, indent=1).encode(), "jsonl", OBJECT),
    "UTF-16 with a mark": (
        LINES.decode().encode("utf-16"),
        "jsonl",
        "UTF-16, not UTF-8: convert it, as by 'iconv -f UTF-16 -t UTF-8'",
    ),
    "UTF-16, little end first": (
        "plain words, and naïve ones".encode("utf-16-le"),
        "text",
        "UTF-16LE, not UTF-8: convert it, as by 'iconv -f UTF-16LE -t UTF-8'",
    ),
    "UTF-16, big end first": (
        "plain words".encode("utf-16-be"),
        "text",
        "UTF-16BE, not UTF-8: convert it, as by 'iconv -f UTF-16BE -t UTF-8'",
    ),
    "UTF-32": (
        "plain words".encode("utf-32"),
        "text",
        "UTF-32, not UTF-8: convert it, as by 'iconv -f UTF-32 -t UTF-8'",
    ),
    "zip": (zipped(LINES), "jsonl", "not jsonl but a zip archive: unpack it"),
    "tar": (tar(LINES), "jsonl", "not jsonl but a tar archive: unpack it"),
    "tar.gz": (gzip.compress(tar(LINES)), "text", "not text but a tar archive: unpack it"),
    "Parquet": (b"PAR1....", "jsonl", "not jsonl but a Parquet file: set format: parquet"),
    "Arrow": (b"ARROW1..", "text", "not text but an Arrow file: set format: arrow"),
}


@pytest.mark.parametrize(("content", "kind", "told"), MISFITS.values(), ids=MISFITS)
def test_what_is_no_text_is_told_once_a_file(tmp_path, content, kind, told):
    path = tmp_path / "a"
    path.write_bytes(content)

    assert read_all(path, kind) == [f"file: {told}"]


FITS = {
    "mark": (codecs.BOM_UTF8 + LINES, TEXTS),
    "one object over one line": (b'{ "text": "a" }', ["a"]),
    "a list further down": (
        b'{"text": "a"}\n[1]\n',
        ["a", "row 0: not a JSON object but a list"],
    ),
    "a zero now and then": (b'{"text": "a\\u0000b"}\n', ["a\0b"]),
    "nulls": (b'{"text": null}\n{"text": "a"}\n', ["row 0: 'text' is not a text but null", "a"]),
}


@pytest.mark.parametrize(("content", "expected"), FITS.values(), ids=FITS)
def test_what_only_looks_odd_is_read(tmp_path, content, expected):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)

    assert read_all(path, "jsonl") == expected


def nested() -> pa.Array:
    inner = pa.array([{"raw": "a", "n": 1}, None, {"raw": None, "n": 2}, {"raw": "d", "n": 3}])
    return pa.StructArray.from_arrays([inner], names=["text"])


LIST_REMEDY = "not text; write one text a row, or join those of a row"
COLUMNS = {
    "binary": (pa.array([b"a", None, b"\xff"], pa.binary()), "text", ["a", "null", "bad"]),
    "large_binary": (pa.array([b"a"], pa.large_binary()), "text", ["a"]),
    "dictionary": (pa.array(["a", "b", "a"]).dictionary_encode(), "text", ["a", "b", "a"]),
    "nested": (
        pa.array([{"text": "a"}, None, {"text": None}, {"text": "d"}]),
        "text.text",
        ["a", "null", "null", "d"],
    ),
    "nested twice": (nested(), "text.text.raw", ["a", "null", "null", "d"]),
    "struct": (
        pa.array([{"id": 1, "body": "a"}]),
        "text",
        [
            "file: column 'text' holds struct<id: int64, body: string>, not text; name a field "
            "of it, such as text_column: text.id"
        ],
    ),
    "list": (
        pa.array([["a", "b"]]),
        "text",
        [f"file: column 'text' holds list<LIST: string>, {LIST_REMEDY}"],
    ),
    "no such field": (
        pa.array([{"body": "a"}]),
        "text.text",
        ["file: no 'text.text' here, only 'id', 'text.body'"],
    ),
    "only nulls": (pa.nulls(2), "text", ["file: column 'text' holds null, not text"]),
}


@pytest.mark.parametrize(("values", "column", "expected"), COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_of_text_in_many_forms(tmp_path, kind, values, column, expected):
    table = pa.table({"id": list(range(len(values))), "text": values})
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
        table = pq.read_table(path)  # names the elements of a list anew
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)

    found = read_all(path, kind, column)

    told = {"null": f"'{column}' is null", "bad": "not valid UTF-8: byte 0xff at offset 0"}
    kinds = [item.partition(": ")[2] if item.startswith("row ") else item for item in found]
    element = table.schema.field("text").type.value_field.name if "list" in str(values.type) else ""
    wanted = [told.get(item, item).replace("LIST", element) for item in expected]
    assert list(dict.fromkeys(kinds)) == list(dict.fromkeys(wanted))


def test_a_column_with_a_dot_in_its_name_comes_before_a_nested_one(tmp_path):
    table = pa.table({"a": pa.array([{"b": "nested"}]), "a.b": ["flat"]})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "a.jsonl").write_text('{"a": {"b": "nested"}, "a.b": "flat"}\n')

    assert read_all(tmp_path / "a.arrow", "arrow", "a.b") == ["flat"]
    assert read_all(tmp_path / "a.jsonl", "jsonl", "a.b") == ["flat"]


def test_keys_within_keys_of_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": {"text": "a", "n": 1}}\n{"content": "b"}\n{"content": {}}\n')
    config = [item.partition(": ")[2] or item for item in read_all(path, "jsonl", "content.text")]

    assert config == [
        "a",
        "no 'content.text' here, only 'content'",
        "no 'content.text' here, only nothing",
    ]


def test_files_of_one_source_may_have_different_schemas(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": ["x"], "text": [b"b"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"body": ["c"]}), tmp_path / "c.parquet")

    assert read_all(tmp_path, "parquet") == ["file: no 'text' here, only 'body'", "a", "b"]


def feather_of(**options: Any) -> Callable[[Any], bytes]:
    def write(values: Any) -> bytes:
        sink = io.BytesIO()
        feather.write_feather(pa.table({"text": values}), sink, **options)
        return sink.getvalue()

    return write


def stream_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet_of(values: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": values}), sink)
    return sink.getvalue()


PLAIN = feather_of(compression="uncompressed")
TWICE = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
JSONL = b'{"text":"a"}\n'
# Name → format, content, and what is read, each document and each problem; a problem's beginning.
ODD: dict[str, tuple[str, bytes, list[str]]] = {
    "half a surrogate": (
        "jsonl",
        b'{"text": "a\\ud800b"}\n{"text":"ok"}\n',
        ["row 0: 'text' has half of a surrogate pair", "ok"],
    ),
    "a whole surrogate pair": ("jsonl", b'{"text": "\\ud83d\\ude00"}', ["\U0001f600"]),
    "a surrogate in UTF-8": ("jsonl", b'{"text": "\xed\xa0\x80"}', ["row 0: not valid UTF-8"]),
    "Latin-1": ("text", "schön".encode("latin-1"), ["row 0: not valid UTF-8: byte 0xf6"]),
    "a number that is none": ("jsonl", b'{"text": NaN}', ["row 0: 'text' is not a text but NaN"]),
    "deep JSON": (
        "jsonl",
        b'{"text":"a","x":' + b"[" * 90_000 + b"]" * 90_000 + b'}\n{"text":"ok"}',
        ["row 0: not valid JSON: nested too deeply", "ok"],
    ),
    "a number of 5,000 digits": (
        "jsonl",
        b'{"text":"a","x":' + b"9" * 5000 + b'}\n{"text":"ok"}',
        ["row 0: not valid JSON: Exceeds the limit", "ok"],
    ),
    "lines of Windows": ("jsonl", b'{"text":"a"}\r\n{"text":"b"}\r\n', ["a", "b"]),
    "nothing": ("jsonl", b"", []),
    "nothing, compressed": ("jsonl", gzip.compress(b""), []),
    "two members of gzip": ("jsonl", gzip.compress(JSONL) * 2, ["a", "a"]),
    "two frames of zstd": ("jsonl", arrow("zstd")(JSONL) * 2, ["a", "a"]),
    "two frames of lz4": ("jsonl", arrow("lz4")(JSONL) * 2, ["a", "a"]),
    "garbage behind gzip": ("jsonl", gzip.compress(JSONL) + b"x", ["file: can't be read: "]),
    "Parquet without rows": ("parquet", parquet_of(pa.array([], pa.string())), []),
    "an empty Parquet file": ("parquet", b"", ["file: can't be read: "]),
    "a Parquet file cut short": ("parquet", parquet_of(["a"])[:-9], ["file: can't be read: "]),
    "large strings": ("parquet", parquet_of(pa.array(["a", "b"], pa.large_string())), ["a", "b"]),
    "JSON as a type": ("parquet", parquet_of(pa.array(['{"a":1}'], pa.json_())), ['{"a":1}']),
    "numbers": ("parquet", parquet_of([1]), ["file: column 'text' holds int64, not text"]),
    "string views": ("arrow", PLAIN(pa.array(["a"], pa.string_view())), ["a"]),
    "compressed buffers": ("arrow", feather_of(compression="zstd")(["a", "b"]), ["a", "b"]),
    "a stream without batches": ("arrow", stream_of(pa.table({"text": ["a"]}).slice(0, 0)), []),
    "two columns of one name": (
        "arrow",
        stream_of(TWICE),
        ["file: 2 columns are called 'text': rename all but one"],
    ),
    "Feather, version 1": ("arrow", b"FEA1\0\0\0\0", ["file: a Feather file of version 1"]),
    "nulls in a dictionary": (
        "arrow",
        PLAIN(pa.array(["a", None, "a"]).dictionary_encode()),
        ["a", "row 1: 'text' is null", "a"],
    ),
}


@pytest.mark.parametrize(("kind", "content", "expected"), ODD.values(), ids=ODD)
def test_odd_files_are_read_or_told(tmp_path, kind, content, expected):
    path = tmp_path / "a"
    path.write_bytes(content)

    found = [item for item in read_all(path, kind) if item is not None]

    assert len(found) == len(expected)
    for item, wanted in zip(found, expected, strict=True):
        is_problem = wanted.startswith(("row ", "file: "))
        assert item.startswith(wanted) if is_problem else item == wanted


@pytest.mark.parametrize("content", [b'[{"text": "a"},' * 4000, b'{"text": "' + b"a" * 60_000])
def test_one_long_line_is_read_in_linear_time(tmp_path, monkeypatch, content):
    """A line that runs through thousands of units: the bytes that are read stay few."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    read = 0

    class Counting(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            nonlocal read
            count = super().readinto(buffer)
            read += count or 0
            return count or 0

    monkeypatch.setattr(
        readers, "open_input", lambda url: io.BufferedReader(Counting(url), buffer_size=1)
    )

    (told,) = set(read_all(path, "jsonl"))

    assert ARRAY in told or "not valid JSON" in told
    assert len(content) <= read + len(content) * content.startswith(b"[") <= 4 * len(content)


@pytest.mark.usefixtures("inline")
def test_an_array_is_told_before_anything_is_read(config, jsonl, capsys, monkeypatch, tmp_path):
    path = tmp_path / "big.jsonl"
    path.write_bytes(b"[" + b'{"text": "a"},' * 100_000)
    source = {"name": "big", "format": "jsonl", "paths": [str(path)]}

    def reading(*_: Any) -> Any:
        assert f"can't be used: {path}: {ARRAY}\n" in capsys.readouterr().err
        return run(*_)

    run = worker_pool.run
    monkeypatch.setattr(worker_pool, "run", reading)

    with pytest.raises(CorpusError) as caught:
        prepare(config(jsonl(["x"]), source))

    first, last = str(caught.value).splitlines()
    assert first == f"{path}: {ARRAY}"
    assert last.startswith("1 unusable input: ")
