"""Filters on conversations, pairs and labelled texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_templates import chat_tokenizer
from good_text import GOOD

from manta.config.errors import CorpusError
from manta.config.filters import PrivacySection, QualitySection
from manta.corpus.filters.dry_run import dry_run
from manta.corpus.filters.filter_verdict import Drop, Keep
from manta.corpus.filters.privacy import Privacy
from manta.corpus.filters.quality import Quality
from manta.corpus.filters.record_filter import RecordFilter, said_in
from manta.corpus.inputs import open_inputs
from manta.corpus.inspect import inspect
from manta.corpus.prepare import prepare

MAIL = "jane.doe@example.org"
CHAT = {
    "messages": [
        {"content": f"Help {MAIL}.", "role": "system"},
        {"content": f"I am {MAIL}, who is that?", "role": "user"},
        {
            "content": "",
            "role": "assistant",
            "tool_calls": [
                {"function": {"arguments": {"who": MAIL}, "name": "find"}, "type": "function"}
            ],
        },
        {"content": "It is you.", "role": "assistant"},
    ],
}


def as_json(record: dict) -> str:
    return json.dumps(record, ensure_ascii=False, sort_keys=True)


def test_private_data_is_replaced_wherever_a_record_has_it():
    found = RecordFilter(Privacy(PrivacySection())).judge(as_json(CHAT))

    assert found.text == as_json(CHAT).replace(MAIL, "<EMAIL>")
    assert found.found == {"emails": 3}
    clean = as_json({"label": MAIL, "text": "nothing"})
    assert RecordFilter(Privacy(PrivacySection())).judge(clean) == Keep(clean)


def test_what_is_judged_is_what_people_and_the_model_say():
    assert said_in(as_json(CHAT)) == f"I am {MAIL}, who is that?\n\nIt is you."
    assert said_in(as_json({"label": "a", "text": "b"})) == "b"
    pair = {"prompt": CHAT["messages"][1:2]} | {
        name: [{"content": name, "role": "assistant"}] for name in ("chosen", "rejected")
    }
    assert said_in(as_json(pair)).endswith("\n\nchosen\n\nrejected")
    long = {"messages": [{"content": GOOD, "role": "system"}, *CHAT["messages"][1:]]}
    quality = RecordFilter(Quality(QualitySection(rules=["gopher_quality"])))
    assert quality.judge(as_json(long)) == Drop("gopher_min_words", 9)


@pytest.fixture
def chats(config, tmp_path: Path):
    """Builds the config of a corpus of conversations."""

    def build(conversations: list[list[str]], **rest):
        lines = [
            {
                "messages": [
                    {"role": role, "content": text}
                    for role, text in zip(("user", "assistant") * 4, turns, strict=False)
                ]
            }
            for turns in conversations
        ]
        path = tmp_path / "chats.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return config(
            {"name": "chats", "format": "jsonl", "paths": [str(path)]},
            tokenizer={"path": str(chat_tokenizer(tmp_path / "tokenizer"))},
            chat={"length": 512, "packing": False},
            **rest,
        )

    return build


@pytest.mark.usefixtures("inline")
def test_a_corpus_of_conversations_is_filtered(chats, tmp_path):
    words = [f"w{number}" for number in range(60)]
    question = " ".join(words)
    conversations = [
        *([f"{number} {question[number:]}", f"answer {number * 7919}"] for number in range(20)),
        ["who?", f"Write to {MAIL}."],
        ["why?", "a badword"],
        [question, "one answer"],
        [question.upper(), "one answer"],
    ]
    (tmp_path / "bad.txt").write_text("badword\n")
    filters = {
        "privacy": True,
        "lists": [{"name": "bad", "path": str(tmp_path / "bad.txt")}],
        "near_duplicates": {"threshold": 0.9},
    }
    settings = chats(conversations, filters=filters)

    manifest = prepare(settings, progress=False)

    found = {one.name: one for one in manifest.filters}
    assert found["privacy"].found == {"emails": 1}
    assert found["lists.bad"].dropped == {"matches": 1}
    lost = sum(found["near_duplicates"].dropped.values())
    assert lost >= 1
    counts = manifest.counts
    assert sum(split["chats"].documents for split in counts.values()) == 23 - lost
    texts = [sample.text for sample in inspect(tmp_path / "out", samples=50).samples]
    assert not any(MAIL in text or "badword" in text for text in texts)
    sample = {one.name: one for one in dry_run(settings, open_inputs(settings)).records}
    assert sample["near_duplicates"].documents_out == found["near_duplicates"].documents_out


@pytest.mark.usefixtures("inline")
def test_a_function_can_keep_or_drop_a_record_but_not_rewrite_it(chats, tmp_path):
    keep = "def keep(text):\n    return 'odd' not in text\n"
    change = "def change(text):\n    return text + '!'\n"
    (tmp_path / "mine.py").write_text(keep + change)
    conversations = [[f"{'odd' if number % 2 else 'even'} {number}", "yes"] for number in range(20)]

    def filters(name: str) -> dict:
        return {"own": [{"function": f"{tmp_path}/mine.py:{name}"}]}

    manifest = prepare(chats(conversations, filters=filters("keep")), progress=False)
    assert manifest.dropped["own.keep"] == 10
    other = chats(conversations, filters=filters("change"), out=str(tmp_path / "other"))
    with pytest.raises(CorpusError, match="can only say whether to keep it"):
        prepare(other, progress=False)


def test_rules_that_remove_lines_are_refused_for_records(chats):
    with pytest.raises(ValueError, match="c4 removes lines"):
        chats([["a", "b"]], filters={"quality": {"rules": ["c4"]}})
    with pytest.raises(ValueError, match=r"filters.boilerplate removes lines"):
        chats([["a", "b"]], filters={"boilerplate": {}})
    chats([["a", "b"]], filters={"quality": {"enabled": False, "rules": ["c4"]}})


@pytest.mark.usefixtures("inline")
def test_labelled_texts_are_filtered(config, jsonl, tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"number {n} by {MAIL}", "label": "ab"[n % 2]} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = config(
        {"name": "texts", "format": "jsonl", "paths": [str(path)]},
        tokenizer={"path": str(chat_tokenizer(tmp_path / "tokenizer"))},
        labelled={"length": 64},
        filters={"privacy": True},
    )

    manifest = prepare(settings, progress=False)

    assert manifest.classes == ["a", "b"]
    (privacy,) = manifest.filters
    assert privacy.changed == privacy.documents_out == 40
    samples = inspect(tmp_path / "out", samples=40).samples
    assert samples
    assert all("<EMAIL>" in sample.text for sample in samples)
