"""What the driver sends to its workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import cloudpickle
from tiny_config import run_config

from manta.config import RunConfig
from manta.elastic.checks.preflight import Checked, check


def test_it_does_not_grow_with_the_shards(tmp_path: Path, make_corpus: Callable[..., Any]) -> None:
    def sent(shards: int) -> Checked:
        folder = tmp_path / str(shards)
        make_corpus(folder / "corpus", {"train": [[20]] * shards}, vocab_size=61)
        config = run_config(folder, folder / "corpus", schedule={"horizon": 7 * 16})
        return check(RunConfig.model_validate(config)).without_shards()

    few, many = sent(8), sent(80)
    assert b"train-00000.arrow" not in cloudpickle.dumps(few)
    # Paths, counts and the fingerprint differ.
    assert len(cloudpickle.dumps(many)) < len(cloudpickle.dumps(few)) + 100
    assert many.corpus.fingerprint != few.corpus.fingerprint
