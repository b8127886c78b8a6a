"""A corpus that `manta prepare` made, shared by the end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_config import corpus_config, make_documents

from manta.config import CorpusConfig
from manta.corpus.prepare import prepare


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """A prepared corpus of a few thousand tokens, with its tokenizer."""
    folder = tmp_path_factory.mktemp("e2e")
    config = corpus_config(folder / "corpus", make_documents(folder / "documents"))
    prepare(CorpusConfig.model_validate(config), progress=False)
    return folder / "corpus"
