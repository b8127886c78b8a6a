"""What a corpus config refuses, and what it says then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from manta.config import ConfigError, CorpusConfig, load
from manta.config.corpus import SplitSection


@pytest.fixture
def refused(tmp_path: Path):
    """The message with which a config of these changes is refused."""

    def say(source: dict[str, Any] | None = None, **rest: Any) -> str:
        path = tmp_path / "corpus.yaml"
        sources = [{"name": "a", "format": "text", "paths": ["a.txt"]} | (source or {})]
        data = {"out": "x", "sources": sources, "tokenizer": {"vocab_size": 300}}
        path.write_text(yaml.safe_dump(data | rest))
        with pytest.raises(ConfigError) as caught:
            load(path, CorpusConfig)
        return str(caught.value)

    return say


def test_a_weight_is_of_a_run_and_not_of_a_corpus(refused):
    message = refused({"weight": 1})

    assert "unknown key 'sources.0.weight'" in message
    assert "how much comes from which source is data.mixture of a run" in message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"format": "jsonl", "only": {"column": "score"}}, "give 'at_least', 'below' or both"),
        (
            {"format": "jsonl", "only": {"column": "score", "at_least": 2, "below": 2}},
            "no number is at least 2 and below 2",
        ),
        ({"only": {"column": "score", "below": 2}}, "'only' needs rows with columns (jsonl, "),
    ],
)
def test_a_range_that_no_row_can_be_in_is_refused(refused, source, message):
    assert message in refused(source)


def test_shares_of_more_than_all_documents_are_refused(refused):
    message = refused(split={"train": 0.9, "validation": 0.1, "test": 0.1})

    assert (
        "split: train 0.9 + validation 0.1 + test 0.1 are 1.1 of all documents, which is" in message
    )
    assert "more than 1; with these two, train can be 0.8" in message


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.1), (0.98, 0, 0), (1 / 3, 1 / 3, 1 / 3)])
def test_shares_of_at_most_all_documents_are_taken(shares):
    SplitSection(train=shares[0], validation=shares[1], test=shares[2])
