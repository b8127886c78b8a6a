"""A corpus records the files that it was made of, and what became of each source's rows."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from manta.config.errors import CorpusError
from manta.corpus.join import join
from manta.corpus.lineage.input_hashes import hash_files, hash_orders
from manta.corpus.lineage.origin import Origin
from manta.corpus.manifest import Manifest
from manta.corpus.sources import InputFile
from manta.storage.run_folder import LINEAGE

WORDS = ("so", "it", "was", "and", "is", "told", "in", "the", "house", "by", "all", "who", "come")


def texts(first: int, count: int) -> list[str]:
    return [f"{i}: {' '.join(WORDS[i % 5 :])} {i * i}" for i in range(first, first + count)]


@pytest.mark.usefixtures("inline")
def test_files_have_hashes_and_sources_have_counts(make, jsonl, tmp_path):
    (tmp_path / "bad.txt").write_text("badword\n")
    bad = {"name": "bad", "path": str(tmp_path / "bad.txt")}
    one = jsonl([*texts(0, 40), "a badword", "", texts(0, 1)[0]], "one")
    two = jsonl([*texts(40, 9), texts(3, 1)[0]], "two")
    manifest = make(one, two, filters={"lists": [bad]})

    origin = Origin.read(tmp_path / "out", manifest.fingerprint)
    assert origin is not None
    first, second = origin.sources
    content = (tmp_path / "one.jsonl").read_bytes()
    [file] = first.files
    assert (file.path, file.rows) == (str(tmp_path / "one.jsonl"), 43)
    assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert first.dropped == {"duplicate": 1, "empty": 1, "lists.bad": 1}
    assert (first.rows, first.documents) == (43, 40)
    assert (second.rows, second.documents, second.dropped) == (10, 9, {"duplicate": 1})


@pytest.mark.usefixtures("inline")
def test_other_files_with_the_same_documents_are_the_same_corpus(make, jsonl, tmp_path):
    source = jsonl(texts(0, 40))
    plain = make(source)
    path = tmp_path / "docs.jsonl"
    (tmp_path / "docs.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    packed = make(source | {"paths": [f"{path}.gz"]}, out=str(tmp_path / "packed"))
    assert packed.fingerprint == plain.fingerprint
    hashes = {
        Origin.read(tmp_path / folder, plain.fingerprint).sources[0].files[0].sha256
        for folder in ("out", "packed")
    }
    assert len(hashes) == 2


@pytest.mark.usefixtures("inline")
def test_what_was_changed_or_is_of_another_corpus_is_told(make, jsonl, tmp_path):
    manifest = make(jsonl(texts(0, 40)))
    path = tmp_path / "out" / LINEAGE
    with pytest.raises(CorpusError, match=r"lineage\.json: is of another corpus"):
        Origin.read(tmp_path / "out", "f" * 64)
    path.write_text(path.read_text().replace("docs.jsonl", "cods.jsonl"))
    with pytest.raises(CorpusError, match=r"lineage\.json: its seal doesn't match"):
        Origin.read(tmp_path / "out", manifest.fingerprint)
    path.unlink()
    assert Origin.read(tmp_path / "out", manifest.fingerprint) is None


@pytest.mark.usefixtures("inline")
def test_a_joined_corpus_knows_the_files_of_its_parts(make, jsonl, tmp_path):
    make(jsonl(texts(0, 40), "one"), out=str(tmp_path / "a"))
    tokenizer = {"path": str(tmp_path / "a" / "tokenizer.json")}
    make(jsonl(texts(40, 40), "two"), out=str(tmp_path / "b"), tokenizer=tokenizer)
    joined = join([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "ab"))
    origin = Origin.read(tmp_path / "ab", joined.fingerprint)
    assert origin is not None
    assert [Path(file.path).name for _, file in origin.files()] == ["one.jsonl", "two.jsonl"]
    assert [parent.relation for parent in origin.parents] == ["joins", "joins"]
    assert origin.parents[1].fingerprint == Manifest.read(tmp_path / "b").fingerprint


def test_a_file_that_changes_meanwhile_stops(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a"}))
    file = InputFile(0, str(path), "a.jsonl", path.stat().st_size, str(path.stat().st_mtime_ns))
    [order] = hash_orders([file])
    assert hash_files(order)["files"] == [
        (file.size, hashlib.sha256(path.read_bytes()).hexdigest())
    ]
    path.write_text(json.dumps({"text": "another"}))
    with pytest.raises(CorpusError, match=r"a\.jsonl: changed while the corpus was being prepared"):
        hash_files(order)
