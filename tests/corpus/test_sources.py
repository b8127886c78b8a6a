"""Config → input files."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from manta.config.corpus import SourceSection
from manta.config.errors import CorpusError
from manta.corpus.sources import open_input, resolve


def source(kind: str, *paths: object, name: str = "s") -> SourceSection:
    return SourceSection(name=name, format=kind, paths=list(map(str, paths)))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.jsonl",
        "a.jsonl.gz",
        "deep/c.json",
        "notes.txt",
        ".hidden.jsonl",
        "_tmp/d.json",
    ):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "tree"


def names(files, root: Path) -> list[str]:
    return [file.url.partition(f"{root}/")[2] for file in files]


def test_a_folder_gives_the_files_of_the_format_in_order(tree):
    files = resolve([source("jsonl", tree)])

    assert names(files, tree) == ["a.jsonl.gz", "b.jsonl", "deep/c.json"]
    assert [file.compression for file in files] == ["gzip", None, None]


def test_of_a_folder_of_text_every_visible_file_is_read(tree):
    assert "notes.txt" in names(resolve([source("text", tree)]), tree)


def test_patterns_keep_their_order_and_a_file_counts_once(tree):
    files = resolve([source("jsonl", tree / "b.*", tree / "**/*.json*")])

    assert names(files, tree) == ["b.jsonl", "_tmp/d.json", "a.jsonl.gz", "deep/c.json"]


def test_relative_paths_are_shown_as_written(tree, monkeypatch):
    monkeypatch.chdir(tree.parent)

    assert [file.shown for file in resolve([source("text", "tree/*.txt")])] == ["tree/notes.txt"]


def test_an_existing_file_is_no_pattern(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")

    assert len(resolve([source("text", tmp_path / "a[1].txt")])) == 1


def test_all_missing_patterns_are_named_at_once(tree):
    sections = [source("jsonl", tree / "zz*", tree / "b.jsonl"), source("text", "/nope", name="t")]

    with pytest.raises(CorpusError) as caught:
        resolve(sections)

    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"source 's': {tree}/zz*: no such file")
    assert lines[1].startswith("source 't': /nope: no such file")


def test_a_folder_without_files_of_the_format_is_an_error(tree):
    with pytest.raises(CorpusError, match=r"no \.parquet or \.pq files"):
        resolve([source("parquet", tree)])


def test_an_unknown_scheme_is_an_error():
    with pytest.raises(CorpusError, match="nosuch://bucket/x"):
        resolve([source("text", "nosuch://bucket/x")])


def test_the_standard_library_comes_without_tests_and_packages():
    paths = [file.url for file in resolve([SourceSection(name="py", format="python-stdlib")])]

    assert any(path.endswith("/json/decoder.py") for path in paths)
    assert any(path.endswith("/ast.py") for path in paths)
    forbidden = ("/site-packages/", "/test/", "/tests/", "/__pycache__/", "/idle_test/")
    assert not [path for path in paths if any(part in path for part in forbidden)]


def test_file_urls(tree):
    files = resolve([source("jsonl", f"file://{tree}/*.jsonl")])

    assert names(files, tree) == ["b.jsonl"] or names(files, tree) == [".hidden.jsonl", "b.jsonl"]
    with open_input(files[-1].url) as file:
        assert file.read() == b"b.jsonl"


def test_urls_over_the_network(tree):
    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Silent, directory=str(tree))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}"
    try:
        files = resolve([source("jsonl", f"{root}/*.jsonl"), source("text", f"{root}/notes.txt")])
        assert [file.url for file in files if "hidden" not in file.url] == [
            f"{root}/b.jsonl",
            f"{root}/notes.txt",
        ]
        with open_input(files[-1].url) as file:
            assert file.read() == b"notes.txt"
        with pytest.raises(CorpusError, match="missing"):
            resolve([source("text", f"{root}/missing.txt")])
    finally:
        server.shutdown()
        server.server_close()


def test_a_dataset_that_was_saved_to_disk_is_read_without_its_caches(tmp_path):
    """As `datasets.Dataset.save_to_disk` writes it: streams of Arrow, and files that name them."""
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-00002.arrow" for number in range(2)]
    for number, name in enumerate([*names, "cache-1f2e.arrow"]):
        table = pa.table({"text": [f"row {number}"]})
        with pa.ipc.new_stream(str(folder / name), table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    (tmp_path / "saved" / "test").mkdir()

    def found(path):
        source = SourceSection(name="s", format="arrow", paths=[str(path)])
        return [Path(file.url).name for file in resolve([source])]

    assert found(folder) == names
    with pytest.raises(CorpusError, match=r"saved: a dataset with the splits train, test: name"):
        found(tmp_path / "saved")
    (folder / "state.json").write_text(
        json.dumps({**state, "_indices_data_files": [{"filename": "indices.arrow"}]})
    )
    with pytest.raises(CorpusError, match=r"call flatten_indices\(\) on it and save it again"):
        found(folder)
