"""Corpora that are filtered: what is left, what is recorded, and that nothing else changes it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from good_text import GOOD

from manta.config import ConfigError, CorpusConfig, load
from manta.config.errors import CorpusError
from manta.corpus.filters.dropped import DROPPED, read_dropped
from manta.corpus.filters.dry_run import dry_run, render_dry_run
from manta.corpus.filters.show_filters import dropped_report
from manta.corpus.inputs import open_inputs
from manta.corpus.inspect import as_page, inspect
from manta.corpus.join import join
from manta.corpus.manifest import Manifest

SECRET = "jane.doe@example.org"
FUNCTION = (
    "from manta.corpus.filters import Drop\n\ndef keep(text):\n    return 'zzz' not in text\n"
)


def good(number: int) -> str:
    return f"{GOOD} It was so in {number}, too."


TEXTS = [
    *[good(i) for i in range(40)],
    "too short",
    f"{good(50)} Write to {SECRET}.",
    f"Short, by {SECRET}",
    f"{good(51)} cafe\u0301",
    f"{good(51)} café",
    f"{good(52)} zzz",
    f"{good(53)} badword",
    "",
]


@pytest.fixture
def filters(tmp_path: Path) -> dict:
    """Every filter that judges documents one by one."""
    (tmp_path / "bad.txt").write_text("badword\n")
    (tmp_path / "mine.py").write_text(FUNCTION)
    return {
        "repair": True,
        "privacy": True,
        "lists": [{"name": "bad", "path": str(tmp_path / "bad.txt")}],
        "quality": {},
        "own": [{"function": f"{tmp_path}/mine.py:keep"}],
    }


@pytest.mark.usefixtures("inline")
def test_what_filters_leave_is_what_is_tokenized(make, jsonl, filters, documents, tmp_path):
    manifest = make(jsonl(TEXTS), filters=filters)

    kept = {text for *_, text in documents(tmp_path / "out")}
    assert kept == {
        *TEXTS[:40],
        f"{good(50)} Write to <EMAIL>.",
        f"{good(51)} café",
    }
    found = {one.name: one for one in manifest.filters}
    assert list(found) == ["repair", "privacy", "lists.bad", "quality", "own.keep"]
    assert [one.documents_in for one in manifest.filters] == [47, 47, 47, 46, 44]
    assert [one.documents_out for one in manifest.filters] == [47, 47, 46, 44, 43]
    assert found["repair"].found == {"normalized": 1}
    assert (found["privacy"].changed, found["privacy"].found) == (2, {"emails": 2})
    assert found["quality"].dropped == {"gopher_min_words": 2}
    assert manifest.dropped == {
        "duplicate": 1,
        "empty": 1,
        "quarantined": 0,
        "lists.bad": 1,
        "quality": 2,
        "own.keep": 1,
    }


@pytest.mark.usefixtures("inline")
def test_what_was_dropped_is_recorded_with_its_place_and_never_in_clear(
    make, jsonl, filters, contents, tmp_path
):
    make(jsonl(TEXTS), filters=filters)

    table = pq.read_table(tmp_path / "out" / DROPPED).to_pylist()
    assert [(row["filter"], row["reason"], row["row"]) for row in table] == [
        ("quality", "gopher_min_words", "line 41"),
        ("quality", "gopher_min_words", "line 43"),
        ("own.keep", "dropped", "line 46"),
        ("lists.bad", "matches", "line 47"),
    ]
    assert table[1]["text"] == "Short, by <EMAIL>"
    for content in contents(tmp_path / "out").values():
        assert SECRET.encode() not in content
    page = as_page(dropped_report(tmp_path / "out", 5))
    assert "Short, by &lt;EMAIL&gt;" in page
    assert SECRET not in page


@pytest.mark.usefixtures("inline")
def test_a_corpus_without_filters_is_what_it_was(make, jsonl, contents, tmp_path):
    """No filter, and filters that are off, add nothing to its files, so nor to its fingerprint."""
    off = {"quality": False, "privacy": {"enabled": False, "find": ["emails"]}}

    plain = make(jsonl(TEXTS), out=str(tmp_path / "plain"))
    made = make(jsonl(TEXTS), out=str(tmp_path / "off"), filters=off)

    assert made.fingerprint == plain.fingerprint
    assert "filters" not in made.config
    assert made.filters is None
    assert set(contents(tmp_path / "off")) == set(contents(tmp_path / "plain"))
    with pytest.raises(CorpusError, match="prepared without filters"):
        dropped_report(tmp_path / "off", 1)


@pytest.mark.usefixtures("inline")
def test_the_fingerprint_is_of_what_filters_are_and_not_of_where_their_files_lie(
    make, jsonl, filters, tmp_path
):
    first = make(jsonl(TEXTS), out=str(tmp_path / "a"), filters=filters)
    (tmp_path / "other").mkdir()
    for name in ("bad.txt", "mine.py"):
        (tmp_path / name).rename(tmp_path / "other" / name)
    moved = json.loads(json.dumps(filters).replace(str(tmp_path), str(tmp_path / "other")))
    again = make(jsonl(TEXTS), out=str(tmp_path / "b"), filters=moved)
    (tmp_path / "other" / "bad.txt").write_text("badword\nnowhere\n")
    other = make(jsonl(TEXTS), out=str(tmp_path / "c"), filters=moved)

    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert [shard.sha256 for shard in first.shards] == [shard.sha256 for shard in other.shards]


@pytest.mark.usefixtures("inline")
def test_a_function_that_fails_names_the_document_and_not_its_text(
    make, jsonl, tmp_path, documents
):
    (tmp_path / "mine.py").write_text("def keep(text):\n    return 1 / ('zzz' not in text) > 0\n")
    own = {"own": [{"function": f"{tmp_path}/mine.py:keep"}]}
    with pytest.raises(CorpusError) as caught:
        make(jsonl(TEXTS), filters=own)
    assert "docs.jsonl, line 46: mine.py:keep failed: mine.py:2: ZeroDivisionError" in str(
        caught.value
    )

    manifest = make(jsonl(TEXTS), filters=own, on_error="quarantine")

    assert manifest.dropped["quarantined"] == 1
    assert len(documents(tmp_path / "out")) == 46


@pytest.mark.usefixtures("inline")
def test_filters_that_leave_nothing_say_so(make, jsonl, tmp_path):
    with pytest.raises(CorpusError, match="1 empty documents, 47 that filters dropped"):
        make(jsonl(TEXTS), filters={"quality": {"limits": {"gopher_min_words": 10_000}}})


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"qualty": {}}, "unknown key 'filters.qualty'; did you mean 'filters.quality'?"),
        ({"privacy": None}, "filters.privacy = nothing: this is a section"),
        ({"quality": {"limits": {"gopher_min_word": 1}}}, "did you mean 'gopher_min_words'?"),
        ({"own": [{"function": "mine.py"}]}, "write a Python file and a function in it"),
        ({"lists": [{"name": "a", "path": "x"}] * 2}, "two lists are called 'a'"),
        ({"near_duplicates": {"threshold": 0.3}}, "filters.near_duplicates.threshold = 0.3"),
        ({"decontaminate": {"test_split": False}}, "give 'evaluations', or set test_split: true"),
        ({"caps": [{"name": "a", "documents": 1, "sources": ["b"]}]}, "there is no source 'b'"),
        ({"caps": [{"name": "a", "documents": 1, "column": "c"}]}, "text has no columns"),
    ],
)
def test_a_mistake_in_the_config_is_told_with_its_key(filters, message, tmp_path):
    path = tmp_path / "corpus.yaml"
    sources = [{"name": "a", "format": "text", "paths": ["a"]}]
    whole = {"out": "x", "sources": sources, "tokenizer": {"vocab_size": 300}, "filters": filters}
    path.write_text(json.dumps(whole))

    with pytest.raises(ConfigError) as caught:
        load(path, CorpusConfig)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"lists": [{"name": "bad", "path": "none.txt"}]}, "'bad': none.txt can't be read"),
        ({"own": [{"function": "none.py:keep"}]}, "none.py can't be read"),
        ({"own": [{"function": "mine.py:kept"}]}, "mine.py defines no 'kept'"),
        ({"own": [{"function": "mine.py:SOME"}]}, "SOME is not a function but int"),
        ({"own": [{"function": "broken.py:keep"}]}, "broken.py:1: not valid Python"),
        ({"lists": [{"name": "bad", "path": "pattern.txt"}]}, "pattern.txt:2: 're:('"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_before_ray_starts(
    config, jsonl, filters, message, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(f"SOME = 3\n{FUNCTION}")
    (tmp_path / "broken.py").write_text("def keep(:\n")
    (tmp_path / "pattern.txt").write_text("ok\nre:(\n")

    with pytest.raises((CorpusError, ConfigError)) as caught:
        open_inputs(config(jsonl(TEXTS), filters=filters))

    assert message in str(caught.value)


def test_a_dry_run_shows_counts_and_examples_and_writes_nothing(config, jsonl, filters, tmp_path):
    settings = config(jsonl(TEXTS), filters=filters)

    found = dry_run(settings, open_inputs(settings))

    assert found.documents == 47
    assert found.duplicates == 1
    assert {one.name: one.documents_out for one in found.records}["own.keep"] == 43
    assert not (tmp_path / "out").exists()
    page = as_page(render_dry_run(found))
    assert "Write to &lt;EMAIL&gt;" in page
    assert SECRET not in page


@pytest.mark.usefixtures("inline")
def test_inspect_shows_what_each_filter_did(make, jsonl, filters, tmp_path):
    make(jsonl(TEXTS), filters=filters)

    from manta.corpus.inspect import render

    page = as_page(render(inspect(tmp_path / "out")))
    assert "lists.bad" in page
    assert [one.reason for one in read_dropped(tmp_path / "out")].count("gopher_min_words") == 2
    assert Manifest.read(tmp_path / "out").filters
    tokenizer = {"path": str(tmp_path / "out" / "tokenizer.json")}
    make(
        jsonl(TEXTS[:41], "more"), out=str(tmp_path / "more"), filters=filters, tokenizer=tokenizer
    )
    joined = join([str(tmp_path / "out"), str(tmp_path / "more")], str(tmp_path / "joined"))
    assert (joined.dropped["quality"], joined.filters) == (3, None)
    with pytest.raises(CorpusError, match="joined of others"):
        dropped_report(tmp_path / "joined", 1)
