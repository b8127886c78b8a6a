"""A corpus of any format, written from tables: whole or not at all, and read as it was written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from manta.config.errors import CorpusError
from manta.corpus.inspect import check_shards, inspect
from manta.corpus.manifest import Manifest
from manta.corpus.write import write_corpus
from manta.sample import shard_file
from manta.sample.rows import RowFormat
from manta.stream.plan import open_corpus, reader_of

SCHEMA = pa.schema(
    [
        ("x", pa.list_(pa.float32(), 3)),
        ("y", pa.float64()),
        ("marks", pa.list_(pa.int32())),
        ("kept", pa.bool_()),
    ]
)
POINTS = RowFormat("points", SCHEMA)


def rows(first: int, end: int) -> list[dict[str, Any]]:
    return [
        {"x": [i, i + 0.5, -i], "y": i / 7, "marks": list(range(i % 4)), "kept": i % 3 == 0}
        for i in range(first, end)
    ]


def table(first: int, end: int) -> pa.Table:
    return pa.Table.from_pylist(rows(first, end), schema=SCHEMA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "corpus"


def data() -> dict[Any, Any]:
    """Two sources: one as an iterable of tables, one as mappings."""
    return {
        "train": {"a": (table(i, i + 20) for i in (0, 20, 40)), "b": iter(rows(60, 90))},
        "validation": {"b": table(90, 99)},
    }


def read_all(folder: Path, manifest: Manifest, split: Any = "train") -> Any:
    reader = reader_of(open_corpus(str(folder), manifest, split, 1, 0, POINTS))
    return reader, reader.read(np.arange(reader.num_samples))


def test_rows_are_read_as_they_were_written_in_any_order(folder: Path) -> None:
    manifest = write_corpus(folder, data(), POINTS, shard_bytes=800)

    assert Manifest.read(folder) == manifest
    assert (manifest.sample, manifest.vocabulary) == ("points", None)
    assert len(manifest.shards_of("train")) > 3
    assert manifest.counts["train"]["a"].documents == manifest.counts["train"]["a"].tokens == 60
    reader, _ = read_all(folder, manifest)
    assert reader.num_samples == 90
    for ids in ([], [7], [89, 3, 3, 61, 0, 59, 60], list(range(90))[::-1]):
        found = reader.read(np.array(ids, np.int64))
        expected = [rows(i, i + 1)[0] for i in ids]
        assert found["x"].dtype == np.float32
        assert found["x"].shape == (len(ids), 3)
        assert found["x"].tolist() == [row["x"] for row in expected]
        assert found["y"].tolist() == [row["y"] for row in expected]
        assert found["marks"].tolist() == [row["marks"] for row in expected]
        assert found["kept"].tolist() == [row["kept"] for row in expected]


def test_shards_have_one_source_and_are_checked(folder: Path) -> None:
    manifest = write_corpus(folder, data(), POINTS)
    assert [shard.source for shard in manifest.shards] == ["a", "b", "b"]
    for shard in manifest.shards:
        column = shard_file.read(folder / shard.file).column("source")
        assert set(column.to_pylist()) == {shard.source}
    assert inspect(folder).verified == 3
    path = folder / "train-00001.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=f"{path}: damaged"):
        check_shards(str(folder), manifest)


def test_the_same_rows_make_the_same_corpus_and_others_are_refused(folder: Path) -> None:
    first = write_corpus(folder, data(), POINTS)
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write_corpus(folder, data(), POINTS) == first
    with pytest.raises(CorpusError, match=r"holds another corpus .* never overwritten"):
        write_corpus(folder, {"train": table(0, 5)}, POINTS)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    other = write_corpus(folder.with_name("other"), {"train": table(0, 5)}, POINTS)
    assert other.fingerprint != first.fingerprint
    assert sorted(path.name for path in folder.parent.iterdir()) == ["corpus", "other"]


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
from test_write import POINTS, data, table
from manta.corpus.write import write_corpus

def dying():
    yield table(0, 40)
    yield table(40, 60)
    os.kill(os.getpid(), signal.SIGKILL)

write_corpus({folder!r}, {{**data(), "train": {{"a": dying()}}}}, POINTS, shard_bytes=500)
"""


def test_one_that_is_killed_leaves_no_corpus_and_the_next_is_whole(folder: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    left = folder.with_name(f".{folder.name}.writing")
    assert any(left.glob("*.arrow"))
    assert not folder.exists()

    manifest = write_corpus(folder, data(), POINTS)

    assert inspect(folder).verified == len(manifest.shards)
    assert not left.exists()
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json",
        *(shard.file for shard in manifest.shards),
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train": table(0, 3).drop_columns("y")},
            "train rows of 'data': the column 'y' is missing",
        ),
        (
            {"train": [{"x": [1, 2, 3]}]},
            "train rows of 'data': a row doesn't fit the format's schema",
        ),
        (
            {"train": {"a": [table(0, 2), 5]}},
            "train rows of 'a': a row doesn't fit the format's schema",
        ),
        (
            {"train": table(0, 2).set_column(1, "y", pa.array([1.0, None]))},
            "train rows of 'data': column 'y' has rows without a value",
        ),
        (
            {"train": table(0, 2).set_column(1, "y", pa.array(["a", "b"]))},
            "train rows of 'data': column 'y': ",
        ),
        ({"training": table(0, 2)}, "no split 'training'; use train, validation, test"),
        ({"validation": table(0, 2)}, "the train split has no row"),
        ({"train": []}, "the train split has no row"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_left(
    folder: Path, given: Any, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        write_corpus(folder, given, POINTS)
    assert not any(folder.parent.iterdir())


def test_a_folder_of_something_else_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(CorpusError, match="files that are no corpus"):
        write_corpus(folder, data(), POINTS)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_ours_are_no_columns_of_a_format(folder: Path) -> None:
    taken = RowFormat("taken", pa.schema([("source", pa.int32())]))
    with pytest.raises(CorpusError, match="a column can't be called 'source'"):
        write_corpus(folder, {"train": [{"source": 1}]}, taken)
