"""A table has a manifest's shards; a kept one stands in for it only while it is the same."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manta.config.errors import CorpusError, StreamError
from manta.corpus.manifest import MANIFEST, Manifest
from manta.sample.format import SplitSize
from manta.stream import table
from manta.stream.table import ShardTable


@pytest.fixture
def kept(tmp_path, monkeypatch, make_corpus):
    """A corpus of two shards, whose table is kept from its first opening on."""
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(table, "MANY_SHARDS", 2)
    manifest = make_corpus(tmp_path / "corpus", {"train": [[5, 6], [7]], "test": [[3]]})
    ShardTable.on_node(str(tmp_path / "corpus"), manifest.fingerprint, "train")
    (path,) = (tmp_path / "cache" / "tables").iterdir()
    return tmp_path / "corpus", manifest, path


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), max_size=4))
def test_a_table_has_the_shards_of_its_split(tmp_path_factory, make_corpus, layout):
    splits = {"train": [[4]], "validation": layout}
    manifest = make_corpus(tmp_path_factory.mktemp("corpus"), splits)
    made = ShardTable.of(manifest, "validation")
    assert [made[index] for index in range(len(made))] == manifest.shards_of("validation")
    assert made.bounds.tolist() == [0, *np.cumsum([sum(shard) for shard in layout]).tolist()]


def test_a_kept_table_is_the_same_and_the_manifest_is_not_read(kept):
    folder, manifest, _ = kept
    head = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(head[: head.index('"shards"')])
    with pytest.raises(CorpusError):
        Manifest.read(folder)
    mapped = ShardTable.on_node(str(folder), manifest.fingerprint, "train")
    assert [mapped[index] for index in range(len(mapped))] == manifest.shards_of("train")
    assert mapped.bounds.tolist() == [0, 11, 18]
    assert mapped.size == SplitSize(rows=3, tokens=18)


def test_splits_have_tables_of_their_own(kept):
    folder, manifest, _ = kept
    other = ShardTable.on_node(str(folder), manifest.fingerprint, "test")
    assert [shard.file for shard in other] == ["test-00000.arrow"]


def test_a_kept_table_is_not_taken_for_a_corpus_prepared_anew(kept, make_corpus):
    folder, manifest, _ = kept
    make_corpus(folder, {"train": [[5, 6], [8]]})
    with pytest.raises(StreamError, match="prepared anew"):
        ShardTable.on_node(str(folder), manifest.fingerprint, "train")


def test_a_damaged_table_is_named(kept):
    folder, manifest, path = kept
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorpusError, match=f"{path}: .*remove it"):
        ShardTable.on_node(str(folder), manifest.fingerprint, "train")


def test_few_shards_leave_nothing_in_the_cache(tmp_path, monkeypatch, make_corpus):
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "cache"))
    manifest = make_corpus(tmp_path / "corpus", {"train": [[5, 6], [7]]})
    ShardTable.on_node(str(tmp_path / "corpus"), manifest.fingerprint, "train")
    assert not (tmp_path / "cache").exists()
