"""The manifest's fingerprint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from manta.corpus.manifest import MANIFEST, Counts, Manifest, Shard

CONFIG: dict[str, Any] = {
    "tokenizer": {"path": "here", "vocab_size": 64},
    "sources": [{"name": "made", "paths": ["/data/*"]}],
}


def manifest_of(shards: int) -> Manifest:
    made = [
        Shard(file=f"{i}.arrow", split="train", documents=1, tokens=i, bytes=9, sha256=str(i))
        for i in range(shards)
    ]
    return Manifest(
        manta_version="test",
        token_dtype="uint16",
        vocab_size=64,
        eos_id=0,
        tokenizer_file="tokenizer.json",
        tokenizer_sha256="",
        config=CONFIG,
        counts={"train": {"made": Counts(documents=1, tokens=1)}},
        dropped={},
        shards=made,
    ).sealed()


@pytest.mark.parametrize("shards", [0, 3])
def test_it_is_the_digest_of_all_but_itself_paths_and_bytes(shards: int, tmp_path: Path) -> None:
    manifest = manifest_of(shards)
    manifest.write(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text())
    assert content.pop("sample") == "tokens"
    of_formats = ("row_length", "turn_ends", "classes", "passages_sha256", "filters")
    assert [content.pop(name) for name in (*of_formats, "length_cost")] == [None] * 6
    made = content["counts"]["train"]["made"]
    assert [made.pop(name) for name in ("supervised", "labels")] == [None, None]
    assert [shard.pop("source") for shard in content["shards"]] == [None] * shards
    del content["fingerprint"], content["config"]["tokenizer"]["path"]
    del content["config"]["sources"][0]["paths"], content["counts"]["train"]["made"]["bytes"]
    plain = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert manifest.fingerprint == hashlib.sha256(plain).hexdigest()
    assert Manifest.read(tmp_path) == manifest


def test_it_is_that_of_a_manifest_which_named_neither_format_nor_sources(tmp_path: Path) -> None:
    """So a corpus that is prepared again has the samples that runs on the older one have."""
    older = manifest_of(2)
    named = [shard.model_copy(update={"source": "made"}) for shard in older.shards]
    newer = older.model_copy(update={"shards": named}).sealed()
    assert newer.fingerprint == older.fingerprint
    newer.write(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text())
    del content["sample"]
    for shard in content["shards"]:
        assert shard.pop("source") == "made"
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    read = Manifest.read(tmp_path)
    assert read.sample == "tokens"
    assert [shard.source for shard in read.shards] == [None, None]


def test_the_bytes_of_the_texts_change_no_fingerprint(tmp_path: Path) -> None:
    """Samples are drawn by it: a corpus of before they were counted goes on as it was."""
    older = manifest_of(1)
    counted = {"train": {"made": Counts(documents=1, tokens=1, bytes=4)}}
    newer = older.model_copy(update={"counts": counted}).sealed()
    assert newer.fingerprint == older.fingerprint
    newer.write(tmp_path)
    assert Manifest.read(tmp_path).tokens_per_byte("train") == 0.25
    content = json.loads((tmp_path / MANIFEST).read_text())
    del content["counts"]["train"]["made"]["bytes"]
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    assert Manifest.read(tmp_path).tokens_per_byte("train") is None
    assert Manifest.read(tmp_path).tokens_per_byte("validation") is None
