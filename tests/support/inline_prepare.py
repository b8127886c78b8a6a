"""`prepare` without Ray: the same passes in this process, in order, without Ray's start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_templates import chat_tokenizer
from tiny_config import corpus_config, make_documents


def without_ray(patch: pytest.MonkeyPatch) -> None:
    """Run what `prepare` would have Ray do in this process, until `patch` is undone."""

    def run(task: Any, orders: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for order in orders:
            yield json.loads(json.dumps(task(json.loads(json.dumps(order)))))

    patch.setattr("manta.corpus.worker_pool.run", run)
    patch.setattr("ray.is_initialized", lambda: True)
    patch.setenv("TOKENIZERS_PARALLELISM", "false")  # restored afterwards


def prepared_corpus(folder: Path) -> Path:
    """A corpus of a few thousand tokens of text, prepared in this process, with its tokenizer."""
    from manta.config import CorpusConfig
    from manta.corpus.prepare import prepare  # it imports Ray, which most tests do without

    config = corpus_config(folder / "corpus", make_documents(folder / "documents"))
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        prepare(CorpusConfig.model_validate(config), progress=False)
    return folder / "corpus"


def prepared_chats(folder: Path, length: int) -> dict[bool, Path]:
    """The same 160 conversations in two corpora with rows of `length`: packed, and one a row."""
    from manta.config import CorpusConfig
    from manta.corpus.prepare import prepare  # it imports Ray, which most tests do without

    lines = [json.dumps(conversation(number)) + "\n" for number in range(160)]
    (folder / "a.jsonl").write_text("".join(lines))
    tokenizer = chat_tokenizer(folder / "tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        for packing in (True, False):
            config = {
                "out": str(folder / f"{packing}"),
                "sources": [{"name": "a", "format": "jsonl", "paths": [str(folder / "a.jsonl")]}],
                "tokenizer": {"path": str(tokenizer)},
                "chat": {"length": length, "packing": packing, "too_long": "drop"},
                "split": {"train": 0.8, "validation": 0.2, "test": 0},
            }
            prepare(CorpusConfig.model_validate(config), progress=False)
    return {packing: folder / f"{packing}" for packing in (True, False)}


def conversation(number: int) -> dict[str, Any]:
    """A short one of one or two exchanges."""
    words = [f"{number * k % 97:b}"[: 1 + number * k % 5] for k in (3, 5, 7, 11)]
    turns = [("user", words[0]), ("assistant", words[1]), ("user", "?"), ("assistant", words[2])]
    kept = turns[: 2 + number % 2 * 2]
    return {"messages": [{"role": role, "content": f"{text}{number}"} for role, text in kept]}
