"""A corpus that `manta prepare` made, and what workers are copies of: for all end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from inline_prepare import without_ray
from tiny_config import corpus_config, make_documents

from manta.config import CorpusConfig
from manta.corpus.prepare import prepare


@pytest.fixture(scope="session", autouse=True)
def begun(copies: None) -> None:
    """What the tests of this folder start finds a process to be copied."""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of a few thousand tokens, with its tokenizer."""
    folder = tmp_path_factory.mktemp("e2e")
    config = corpus_config(folder / "corpus", make_documents(folder / "documents"))
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        prepare(CorpusConfig.model_validate(config), progress=False)
    return folder / "corpus"
