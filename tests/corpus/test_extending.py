"""A corpus that extends another one: what was there stays as it was, and nothing comes twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from manta.config.errors import CorpusError
from manta.corpus.inspect import inspect
from manta.corpus.lineage.forgetting import forget
from manta.corpus.lineage.origin import Origin
from manta.corpus.manifest import Manifest
from manta.stream.mixed_sources import source_spans
from manta.stream.plan import open_corpus, reader_of

SEQ = 16


def texts(first: int, count: int) -> list[str]:
    return [f"number {i} of many, and {i * i} of more" for i in range(first, first + count)]


@pytest.fixture
def base(make, jsonl, tmp_path, inline) -> Manifest:
    return make(jsonl(texts(0, 60), "web"), out=str(tmp_path / "base"), shard_tokens=400)


def extended(make, source, tmp_path, out="more", **rest):
    config = {"extends": str(tmp_path / "base"), "tokenizer": None, "shard_tokens": 400}
    return make(source, out=str(tmp_path / out), **(config | rest))


def test_old_documents_keep_split_shard_and_sample_ids(
    make, jsonl, base, documents, contents, tmp_path
):
    there = contents(tmp_path / "base")
    more = extended(make, jsonl([*texts(50, 40), *texts(55, 3)], "news"), tmp_path)

    assert contents(tmp_path / "base") == there, "runs on it go on"
    new, old = documents(tmp_path / "more"), documents(tmp_path / "base")
    assert [each for each in new if each[1] == "web"] == old
    assert sorted(text for *_, text in new) == sorted(texts(0, 90))
    assert more.counts["train"]["web"] == base.counts["train"]["web"]
    assert more.dropped == {"duplicate": 13, "empty": 0, "quarantined": 0}
    assert inspect(tmp_path / "more").verified == len(more.shards) > len(base.shards)
    for split in ("train", "validation", "test"):
        before = base.shards_of(split)
        assert more.shards_of(split)[: len(before)] == before
        assert len({shard.file for shard in more.shards_of(split)}) == len(more.shards_of(split))
    readers = [
        reader_of(open_corpus(str(tmp_path / name), each, "train", SEQ, 0))
        for name, each in (("base", base), ("more", more))
    ]
    ids = np.arange(readers[0].num_samples)
    samples = [reader.read(ids)["tokens"] for reader in readers]
    assert np.array_equal(*samples)
    form = more.format_of_samples
    assert list(source_spans("", more, "train", form, SEQ)) == ["web", "news"]
    origin = Origin.read(tmp_path / "more", more.fingerprint)
    assert origin is not None
    assert [Path(file.path).stem for _, file in origin.files()] == ["news", "web"]
    assert origin.sources[0].dropped == {"duplicate": 13}

    again = extended(
        make, jsonl(texts(85, 20), "later"), tmp_path, "again", extends=str(tmp_path / "more")
    )
    assert sorted(text for *_, text in documents(tmp_path / "again")) == sorted(texts(0, 105))
    assert again.shards_of("train")[: len(more.shards_of("train"))] == more.shards_of("train")


def test_what_was_forgotten_does_not_come_back(make, jsonl, base, documents, tmp_path):
    gone = documents(tmp_path / "base")[3]
    forget(str(tmp_path / "base"), [gone[2]], str(tmp_path / "less"))
    extended(make, jsonl(texts(0, 70), "news"), tmp_path, extends=str(tmp_path / "less"))
    assert sorted(text for *_, text in documents(tmp_path / "more")) == sorted(
        {*texts(0, 70)} - {gone[3]}
    )


def test_what_does_not_fit_is_refused_before_anything_is_read(make, jsonl, base, tmp_path):
    news = jsonl(texts(60, 20), "news")
    with pytest.raises(CorpusError, match=r"'web' is a source of .*base already.*such as web-2"):
        extended(make, news | {"name": "web"}, tmp_path)
    with pytest.raises(CorpusError, match=r"split: must be that of .*base, .*'train': 0\.8"):
        extended(make, news, tmp_path, split={"train": 0.5, "validation": 0.5, "test": 0})
    with pytest.raises(CorpusError, match=r"extends: tokenizer\.vocab_size: leave 'tokenizer' out"):
        extended(make, news, tmp_path, tokenizer={"vocab_size": 300})
    other = tmp_path / "other"
    make(jsonl([f"quite another {i}" for i in range(40)], "x"), out=str(other))
    with pytest.raises(CorpusError, match=r"extends: tokenizer: not the one of .*base: leave"):
        extended(make, news, tmp_path, tokenizer={"path": str(other / "tokenizer.json")})
    assert not (tmp_path / "more").exists()
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(CorpusError, match="base"):
        extended(make, news, tmp_path)
