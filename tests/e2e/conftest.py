"""A corpus that `manta prepare` made, and what workers are copies of: for all end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from inline_prepare import prepared_corpus


@pytest.fixture(scope="session", autouse=True)
def begun(copies: None) -> None:
    """What the tests of this folder start finds a process to be copied."""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of a few thousand tokens, with its tokenizer."""
    return prepared_corpus(tmp_path_factory.mktemp("e2e"))
