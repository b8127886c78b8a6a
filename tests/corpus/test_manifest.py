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
def test_it_is_the_digest_of_all_but_itself_and_the_paths(shards: int, tmp_path: Path) -> None:
    manifest = manifest_of(shards)
    manifest.write(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text())
    del content["fingerprint"], content["config"]["tokenizer"]["path"]
    del content["config"]["sources"][0]["paths"]
    plain = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert manifest.fingerprint == hashlib.sha256(plain).hexdigest()
    assert Manifest.read(tmp_path) == manifest
