"""`prepare` without Ray: the same passes in this process, in order, without Ray's start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
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
