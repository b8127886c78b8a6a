"""A corpus named by URL reads as the same corpus named by path, through the node's cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta.config.errors import CorpusError
from manta.config.urls import join
from manta.corpus import remote
from manta.corpus.inspect import check_shards
from manta.corpus.manifest import Manifest
from manta.sample.tokens import Tokens
from manta.stream.shards import ShardReader
from manta.stream.table import ShardTable


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "files"


@pytest.fixture
def corpus(tmp_path: Path, make_corpus: Callable[..., Any]) -> Path:
    make_corpus(tmp_path / "corpus", {"train": [[40, 50], [60]]})
    return tmp_path / "corpus"


def test_the_same_samples_by_url_and_by_path(corpus: Path, cache: Path) -> None:
    url = f"file://{corpus}"
    manifest = Manifest.read(url)
    assert manifest == Manifest.read(corpus)
    here = ShardReader(corpus, ShardTable.of(manifest, "train"), Tokens("uint16"), 16)
    there = ShardReader(url, ShardTable.of(manifest, "train"), Tokens("uint16"), 16)
    assert not cache.exists()  # opening fetches nothing
    there.read(np.arange(1))
    assert [path.name for path in cache.iterdir()] == [manifest.shards[0].sha256]
    ids = np.arange(here.num_samples)
    assert np.array_equal(here.read(ids)["tokens"], there.read(ids)["tokens"])
    assert {path.name for path in cache.iterdir()} == {s.sha256 for s in manifest.shards}


def test_what_is_cached_is_not_fetched_again(corpus: Path) -> None:
    manifest = Manifest.read(corpus)
    shard = manifest.shards[0]
    cached = remote.local_shard(f"file://{corpus}", shard).path
    (corpus / shard.file).unlink()
    assert remote.local_shard(f"file://{corpus}", shard).path == cached


def test_a_copy_that_was_damaged_later_is_fetched_anew(corpus: Path, cache: Path) -> None:
    manifest = Manifest.read(corpus)
    check_shards(f"file://{corpus}", manifest)
    copy = cache / manifest.shards[0].sha256
    content = copy.read_bytes()
    copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CorpusError, match=f"{copy}: damaged: .* this node's copy"):
        check_shards(f"file://{corpus}", manifest)
    check_shards(f"file://{corpus}", manifest)
    assert copy.read_bytes() == content


def test_a_damaged_file_is_named_and_not_kept(corpus: Path, cache: Path) -> None:
    shard = Manifest.read(corpus).shards[0]
    content = bytearray((corpus / shard.file).read_bytes())
    content[200] ^= 1
    (corpus / shard.file).write_bytes(content)
    with pytest.raises(CorpusError, match=f"{shard.file}: its content does not match"):
        remote.local_shard(f"file://{corpus}", shard)
    assert os.listdir(cache) == []


def test_what_is_not_there_is_named(tmp_path: Path, corpus: Path) -> None:
    shard = Manifest.read(corpus).shards[0].model_copy(update={"file": "x.arrow"})
    with pytest.raises(CorpusError, match=r"nowhere/manifest\.json: no prepared corpus here"):
        Manifest.read(f"file://{tmp_path}/nowhere")
    with pytest.raises(CorpusError, match=r"nowhere/x\.arrow: can't be read"):
        remote.local_shard(f"file://{tmp_path}/nowhere", shard)


def test_options_of_a_url_stay_at_its_end() -> None:
    url = "s3://bucket/corpus?region=eu&scheme=http"
    assert join(url, "a.arrow") == "s3://bucket/corpus/a.arrow?region=eu&scheme=http"
    assert join("/data/what?/", "a.arrow") == "/data/what?/a.arrow"
