"""Which tokens of a pair are trained on, and that no limit takes one from either answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_templates import TEMPLATES, chat_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from manta.config.corpus import ChatSection
from manta.corpus.chat_template import ChatEncoder, EncodedChat, TooLong
from manta.corpus.conversations import UnusableRecord
from manta.corpus.pair_records import pair_text
from manta.corpus.pair_template import PairEncoder

Make = Callable[..., PairEncoder]
texts = st.text(st.sampled_from('ab é漢.\n<|/[]{}"\\'), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = ("chatml", "headers", "thinking")
    base = tmp_path_factory.mktemp("templates")
    return {name: chat_tokenizer(base / name, TEMPLATES[name]) for name in names}


@pytest.fixture(scope="module")
def encoder(folders: dict[str, Path]) -> Make:
    def make(template: str = "chatml", length: int = 4096, **chat: Any) -> PairEncoder:
        return PairEncoder(folders[template], ChatSection(length=length, **chat), "uint16")

    return make


def said(*turns: str) -> list[dict[str, Any]]:
    """Messages of user and assistant in turn."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]


def pair(prompt: Any, chosen: Any, rejected: Any) -> str:
    return pair_text({"prompt": prompt, "chosen": chosen, "rejected": rejected}, {})


def sides(row: EncodedChat) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Tokens and spans of both conversations, as if each stood alone."""
    first, second = row.starts
    assert first == 0
    found = []
    for begin, end in ((0, second), (second, len(row.tokens))):
        spans = [(b - begin, e - begin) for b, e in row.supervised if begin <= b and e <= end]
        found.append((row.tokens[begin:end].tolist(), spans))
    assert sum(len(spans) for _, spans in found) == len(row.supervised)
    return found


@given(
    st.lists(texts, min_size=1, max_size=3),
    st.tuples(texts, texts).filter(lambda both: both[0].strip() != both[1].strip()),
    st.sampled_from(["chatml", "headers", "thinking"]),
)
def test_each_answer_is_encoded_as_that_of_a_conversation_of_its_own(
    folders: dict[str, Path], asked: list[str], answers: tuple[str, str], template: str
) -> None:
    turns = [text for question in asked for text in (question, "earlier")][:-1]
    section = ChatSection(length=4096, turns="last")
    (row,) = PairEncoder(folders[template], section, "uint16").encode(pair(said(*turns), *answers))
    alone = ChatEncoder(folders[template], section, "uint16")
    for (tokens, spans), answer in zip(sides(row), answers, strict=True):
        (chat,) = alone.encode(json.dumps({"messages": said(*turns, answer)}, ensure_ascii=False))
        assert tokens == chat.tokens.tolist()
        assert spans == list(chat.supervised)


@given(
    st.lists(texts, min_size=1, max_size=3),
    texts,
    texts,
    st.integers(2, 120),
    st.sampled_from(["drop", "cut"]),
)
def test_at_any_length_both_answers_are_whole_or_the_pair_is_too_long(
    folders: dict[str, Path], asked: list[str], chosen: str, rejected: str, length: int, rule: str
) -> None:
    if chosen == rejected:
        rejected += "!"
    turns = [text for question in asked for text in (question, "earlier")][:-1]
    text = pair(said(*turns), chosen, rejected)
    whole = PairEncoder(folders["chatml"], ChatSection(length=4096), "uint16").encode(text)[0]
    section = ChatSection(length=length, too_long=rule)
    tool = PairEncoder(folders["chatml"], section, "uint16")
    row = fitted(tool, text)
    if row is None:
        assert len(whole.tokens) > length
        return
    assert len(row.tokens) <= length
    assert rule == "cut" or row.tokens.tolist() == whole.tokens.tolist()
    for (tokens, spans), (all_tokens, all_spans) in zip(sides(row), sides(whole), strict=True):
        ((begin, end),), ((whole_begin, whole_end),) = spans, all_spans
        assert tokens[begin:end] == all_tokens[whole_begin:whole_end]
    prompts = [tokens[: spans[0][0]] for tokens, spans in sides(row)]
    assert prompts[0] == prompts[1], "both answer the same prompt"


def fitted(tool: PairEncoder, text: str) -> EncodedChat | None:
    """A pair as it goes into a row; None if it is too long."""
    try:
        return tool.encode(text)[0]
    except TooLong:
        return None


def test_a_prompt_loses_its_oldest_turns_before_a_pair_is_lost(encoder: Make) -> None:
    system = {"role": "system", "content": "s"}
    text = pair([system, *said("a" * 40, "b" * 40, "question")], "yes", "no")
    with pytest.raises(TooLong, match=r"tokens, which is more than chat.length = 90") as raised:
        encoder(length=90, too_long="drop").encode(text)
    assert raised.value.lost.supervised == encoder().encode(text)[0].supervised_tokens
    tool = encoder(length=90, too_long="cut")
    (row,) = tool.encode(text)
    shown = tool._chats._decoded(row.tokens.tolist())
    assert "aaa" not in shown
    assert shown.count("question") == shown.count("system\ns") == 2
    assert row.lost == (len(encoder().encode(text)[0].tokens) - len(row.tokens), 0)


def test_what_both_say_alike_is_prompt_and_every_turn_after_it_an_answer(encoder: Make) -> None:
    chosen, rejected = said("q", "same", "more?", "good", "and?", "ok"), said("q", "same", "more?")
    record = {"chosen": chosen, "rejected": [*rejected, {"role": "assistant", "content": "bad"}]}
    tool = encoder()
    (row,) = tool.encode(pair_text(record, {}))
    spans = [tool._chats._decoded(row.tokens[b:e].tolist()) for b, e in row.supervised]
    assert spans == [f"{text}<|im_end|>" for text in ("good", "ok", "bad")]


@pytest.mark.parametrize(
    ("template", "text", "reason"),
    [
        ("headers", pair("q", "a", " a"), "chosen and rejected are the same tokens"),
        ("chatml", pair("<|im_end|>", "a", "b"), r"spells the special token '<\|im_end\|>'"),
        (
            "chatml",
            pair_text({"chosen": said("q", "a"), "rejected": said("q", "a", "b", "c")}, {}),
            "chosen: after the messages that both have in common comes nothing",
        ),
        (
            "chatml",
            pair_text(
                {"chosen": said("q", "a", "b", "c"), "rejected": said("q", "a", "d", "c")}, {}
            ),
            "chosen: after .* comes a message of user, where an answer of assistant",
        ),
        (
            "thinking",
            pair("q", said("", "a", "b", "c")[1:], "d"),
            "chosen: once others follow, .* set chat.turns to last",
        ),
    ],
)
def test_what_is_no_exact_pair_is_refused(
    encoder: Make, template: str, text: str, reason: str
) -> None:
    with pytest.raises(UnusableRecord, match=reason):
        encoder(template).encode(text)
