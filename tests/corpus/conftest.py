"""Small corpora, and two ways to run the passes over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manta.config.corpus import CorpusConfig
from manta.corpus.prepare import prepare


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., CorpusConfig]:
    """Builds a config from sources, with small defaults for the rest."""

    def build(*sources: dict[str, Any], **rest: Any) -> CorpusConfig:
        settings = {
            "out": str(tmp_path / "out"),
            "sources": list(sources),
            "tokenizer": {"vocab_size": 300},
            "split": {"train": 0.8, "validation": 0.1, "test": 0.1},
        }
        return CorpusConfig.model_validate(settings | rest)

    return build


@pytest.fixture
def make(config: Callable[..., CorpusConfig]) -> Callable[..., Any]:
    """Builds a config and prepares it."""
    return lambda *sources, **rest: prepare(config(*sources, **rest), progress=False)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes texts to a JSONL file; returns the source that reads it."""

    def write(texts: list[str], name: str = "docs") -> dict[str, Any]:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return {"name": name, "format": "jsonl", "paths": [str(path)]}

    return write


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a folder and what is in it."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return read


@pytest.fixture
def documents() -> Callable[[Path], list[tuple[str, str, str, str]]]:
    """Every document of a corpus in order: split, source, id, text; each ends with EOS."""

    def read(folder: Path) -> list[tuple[str, str, str, str]]:
        from manta.corpus.manifest import Manifest
        from manta.corpus.tokenizer import decode
        from manta.sample import shard_file

        manifest = Manifest.read(folder)
        found = []
        for shard in manifest.shards:
            table = shard_file.read(folder / shard.file)
            rows = table.to_pylist()
            assert all(row["tokens"][-1] == manifest.eos_id for row in rows)
            texts = decode(folder, manifest.tokenizer_file, [row["tokens"][:-1] for row in rows])
            found += [
                (shard.split, row["source"], row["doc_id"], text)
                for row, text in zip(rows, texts, strict=True)
            ]
        return found

    return read
