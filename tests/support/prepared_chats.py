"""Small corpora of records, prepared in this process, and what is in their rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chat_templates import CHATML, chat_tokenizer

from manta.config.corpus import CorpusConfig
from manta.corpus.manifest import Manifest
from manta.corpus.prepare import prepare
from manta.sample import shard_file

LENGTH = 64


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def config_of(folder: Path, *paths: Path, template: str = CHATML, **keys: Any) -> CorpusConfig:
    tokenizer = chat_tokenizer(folder / "tokenizer", template)
    chat = {"length": LENGTH, **keys.pop("chat", {})}
    kinds = {".jsonl": "jsonl", ".parquet": "parquet"}
    sources = [
        {"name": path.stem, "format": kinds[path.suffix], "paths": [str(path)]} for path in paths
    ]
    return CorpusConfig.model_validate(
        {
            "out": str(folder / "corpus"),
            "sources": sources,
            "tokenizer": {"path": str(tokenizer)},
            "chat": chat,
            "split": {"train": 0.9, "validation": 0.1, "test": 0},
            **keys,
        }
    )


def made(config: CorpusConfig) -> Manifest:
    return prepare(config, progress=False)


def rows_in(config: CorpusConfig) -> list[dict[str, Any]]:
    manifest = Manifest.read(config.out)
    tables = [shard_file.read(Path(config.out) / shard.file) for shard in manifest.shards]
    return [row for table in tables for row in table.to_pylist()]


def spans_of(row: dict[str, Any]) -> list[tuple[int, int]]:
    bounds = row["supervised"]
    return list(zip(bounds[::2], bounds[1::2], strict=True))
