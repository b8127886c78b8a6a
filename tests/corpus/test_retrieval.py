"""Passages that are attached to questions: which, what becomes of the answer, and its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from chat_templates import CHATML, chat_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_prepare import without_ray

from manta.config.corpus import ContextSection, CorpusConfig
from manta.config.errors import CorpusError
from manta.corpus.documents import content_hash
from manta.corpus.manifest import Manifest
from manta.corpus.prepare import prepare
from manta.corpus.retrieval import Retriever, read_passages, write_index
from manta.corpus.workspace import CONTEXT

CITIES = {
    "Riga": "Latvia",
    "Oslo": "Norway",
    "Lima": "Peru",
    "Quito": "Ecuador",
    "Hanoi": "Vietnam",
    "Accra": "Ghana",
}
Prepare = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passages on cities, questions about them, and a tokenizer for chats."""
    folder = tmp_path_factory.mktemp("context")
    passages = folder / "passages"
    passages.mkdir()
    for city, country in CITIES.items():
        (passages / f"{city}.md").write_text(f"{city} is the capital of {country}.\n")
    rows = [
        {"prompt": f"Of what country is {city} the capital{mark}", "completion": country}
        for city, country in CITIES.items()
        for mark in ("?", " today?", " now?", " , please?")
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat_tokenizer(folder / "tokenizer")
    return folder


@pytest.fixture
def prepared(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    without_ray(monkeypatch)

    def build(name: str = "corpus", **context: Any) -> Path:
        config = {
            "out": str(tmp_path / name),
            "sources": [{"name": "a", "format": "jsonl", "paths": [str(folder / "a.jsonl")]}],
            "tokenizer": {"path": str(folder / "tokenizer")},
            "chat": {
                "length": 2048,
                "context": {"paths": [str(folder / "passages")], "lacking": 0.25, **context},
            },
            "split": {"train": 0.7, "validation": 0.3, "test": 0},
        }
        prepare(CorpusConfig.model_validate(config), progress=False)
        return tmp_path / name

    return build


def attached(corpus: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(corpus / CONTEXT).to_pylist()
    return rows


def test_the_right_passage_is_among_them_or_the_answer_says_that_it_is_not(
    folder: Path, tmp_path: Path
) -> None:
    section = ContextSection(paths=[str(folder / "passages")], lacking=0.5, passages=3)
    write_index(read_passages(section), tmp_path)
    retriever = Retriever(tmp_path, section)
    seen = set()
    for number in range(40):
        city = list(CITIES)[number % len(CITIES)]
        asked = [{"role": "user", "content": f"{number}: of what country is {city} the capital?"}]
        text = json.dumps({"messages": [*asked, {"role": "assistant", "content": CITIES[city]}]})
        found = retriever.attach(content_hash(text.encode()), text)
        assert found is not None
        system, question, answer = json.loads(found.text)["messages"]
        assert len(set(found.places)) == 3
        assert [question] == asked
        given = f"{city}.md#1" in found.places
        assert given == (found.right >= 0) == (CITIES[city] in system["content"])
        assert answer["content"] == (CITIES[city] if given else section.refusal)
        assert not given or found.places[found.right] == f"{city}.md#1"
        seen.add((given, found.right))
    assert {place for _, place in seen} == {-1, 0, 1, 2}, "the right one is at any place"


def test_what_was_attached_is_recorded_and_the_same_each_time(prepared: Prepare) -> None:
    first, second = prepared("first"), prepared("second")
    assert attached(first) == attached(second)
    assert len(attached(first)) == 24
    lacking = sum(row["right"] < 0 for row in attached(first))
    assert 0 < lacking < 24
    one, other = (Manifest.read(str(corpus)) for corpus in (first, second))
    assert one.fingerprint == other.fingerprint
    assert one.passages_sha256


def test_other_passages_make_another_corpus(prepared: Prepare, folder: Path) -> None:
    before = Manifest.read(str(prepared())).fingerprint
    added = folder / "passages" / "Zagreb.md"
    try:
        added.write_text("Zagreb is the capital of Croatia.")
        with pytest.raises(CorpusError, match="another"):
            prepared()
        assert Manifest.read(str(prepared("next"))).fingerprint != before
    finally:
        added.unlink()


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ({"paths": ["nowhere/*.md"]}, "nowhere/\\*.md: no file of text there"),
        ({"passages": 50}, "6 passages are there, .* = 50"),
        ({"place": "documents"}, "the chat template takes no documents"),
    ],
)
def test_what_can_not_be_attached_is_refused(
    prepared: Prepare, context: dict[str, Any], said: str
) -> None:
    assert "documents" not in CHATML
    with pytest.raises(CorpusError, match=said):
        prepared(**context)


def test_the_conversations_themselves_are_no_passages(prepared: Prepare, folder: Path) -> None:
    with pytest.raises(CorpusError, match="also those that are held out"):
        prepared(paths=[str(folder / "*.jsonl")])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text("ab \n", max_size=60), min_size=1, max_size=5), st.integers(8, 12))
def test_no_word_of_a_file_is_lost_and_no_passage_too_long(
    tmp_path_factory: pytest.TempPathFactory, paragraphs: list[str], words: int
) -> None:
    folder = tmp_path_factory.mktemp("words")
    numbered = "\n\n".join(
        " ".join(f"{word}{i}x{j}" for j, word in enumerate(paragraph.split()))
        for i, paragraph in enumerate(paragraphs)
    )
    (folder / "a.txt").write_text(numbered + " end")
    section = ContextSection(paths=[str(folder)], words=words, passages=1)
    texts = [one.text for one in read_passages(section)]
    assert " ".join(texts).split() == [*numbered.split(), "end"]
    assert all(len(text.split()) <= words for text in texts)
