"""A tiny run for the engine's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manta.config.run import RunConfig
from manta.elastic.checks.preflight import Checked, check

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        section, _, rest = key.partition(".")
        old = merged.get(section, {})
        merged[section] = _merged(old, {rest: value}) if rest else value
    return merged


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_corpus: Callable[..., Any]) -> Path:
    """A few thousand random tokens in short documents."""
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(
        folder,
        {"train": [[5, 9, 30] * 20, [17] * 60], "validation": [[11] * 20, [11] * 10]},
        vocab_size=61,
        sources=("web", "code"),
    )
    return folder


Build = Callable[..., Checked]


def _builder(storage: Path, corpus: Path) -> Build:
    """Builds a checked run from changes given as dotted keys."""

    def build(changes: dict[str, Any] | None = None) -> Checked:
        base = {
            "run": {"name": "test", "storage": str(storage), "seed": 3},
            "corpus": str(corpus),
            "model": {"type": "llama", "sizes": SIZES},
            "train": {"seq_len": 16, "micro_batch": 4},
            "schedule": {"horizon": 16 * 7 * 12, "lr": 1e-3, "batch": 7},
        }
        return check(RunConfig.model_validate(_merged(base, changes or {})))

    return build


@pytest.fixture
def checked(tmp_path: Path, corpus: Path) -> Build:
    """Builds runs in a storage of the test's own."""
    return _builder(tmp_path, corpus)


@pytest.fixture(scope="module")
def checked_module(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Build:
    """Builds runs whose results several tests of a module share."""
    return _builder(tmp_path_factory.mktemp("runs"), corpus)
