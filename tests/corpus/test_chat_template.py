"""Which tokens of a conversation are trained on: those that the model has to write, no others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_templates import CHATML, TEMPLATES, chat_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from manta.config.corpus import ChatSection
from manta.config.errors import CorpusError
from manta.corpus.chat_template import (
    ChatEncoder,
    EncodedChat,
    TooLong,
    check_template,
    with_arguments,
)
from manta.corpus.conversations import UnusableRecord

Make = Callable[..., ChatEncoder]
ENDS = {"chatml": "<|im_end|>", "headers": "<|eot|>", "closed": "<|end|>"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Make:
    made: dict[str, Path] = {}

    def make(template: str = "chatml", length: int = 4096, **chat: Any) -> ChatEncoder:
        section = ChatSection(length=length, **chat)
        whole = with_arguments(TEMPLATES[template], section.template_args)
        if whole not in made:
            made[whole] = chat_tokenizer(tmp_path_factory.mktemp(template), whole)
        return ChatEncoder(made[whole], section, "uint16")

    return make


def said(*turns: str, **more: Any) -> str:
    """A conversation of user and assistant in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return json.dumps({"messages": messages, **more}, ensure_ascii=False)


def decoded(encoder: ChatEncoder, tokens: Any) -> str:
    return str(encoder._tokenizer.decode(list(map(int, tokens)), skip_special_tokens=False))


def supervised(encoder: ChatEncoder, row: EncodedChat) -> list[str]:
    return [decoded(encoder, row.tokens[begin:end]) for begin, end in row.supervised]


texts = st.text(st.sampled_from('ab é漢.\n<|/[]{}"\\'), min_size=1, max_size=12)


@given(st.lists(texts, min_size=1, max_size=3), texts, st.sampled_from(list(ENDS)))
def test_exactly_the_answers_and_their_ends_are_trained_on(
    encoder: Make, answers: list[str], question: str, template: str
) -> None:
    tool = encoder(template)
    turns = [text for answer in answers for text in (question, answer)]
    rows = tool.encode(said(*turns))
    wanted = [text.strip() if template == "headers" else text for text in answers]
    found = sorted(text for row in rows for text in supervised(tool, row))
    assert found == sorted(text + ENDS[template] for text in wanted)
    assert_asked_as_in_use(tool, rows, turns)


def assert_asked_as_in_use(tool: ChatEncoder, rows: list[EncodedChat], turns: list[str]) -> None:
    """The ids before each answer are those of a prompt with which the model is used."""
    messages = json.loads(said(*turns))["messages"]
    prompts = [
        tool._loaded.apply_chat_template(
            messages[:place], add_generation_prompt=True, return_dict=False
        )
        for place in range(1, len(turns), 2)
    ]
    asked = [row.tokens[:begin].tolist() for row in rows for begin, _ in row.supervised]
    assert sorted(asked) == sorted(prompts)


@pytest.mark.parametrize("template", ["chatml", "headers", "brackets", "thinking", "closed"])
def test_a_model_is_asked_by_the_tokens_that_stand_before_its_answer(
    encoder: Make, template: str
) -> None:
    tool = encoder(template)
    turns = ["What is a shard?", "A file.", "And two?", "Files."]
    rows = tool.encode(said(*turns))
    # With this tokenizer two line breaks are one token at the end of a text, but not in it.
    assert len(rows) == (1 if template in ("chatml", "brackets", "closed") else 2)
    assert_asked_as_in_use(tool, rows, turns)


def test_a_template_that_drops_thinking_makes_a_row_of_each_turn(encoder: Make) -> None:
    tool = encoder("thinking")
    messages = json.loads(said("1+1?", "2", "2+2?", "4"))["messages"]
    messages[1]["reasoning_content"], messages[3]["reasoning_content"] = "one more", "two more"
    rows = tool.encode(json.dumps({"messages": messages}))
    assert [supervised(tool, row) for row in rows] == [
        ["<think>\ntwo more\n</think>\n\n4<|im_end|>"],
        ["<think>\none more\n</think>\n\n2<|im_end|>"],
    ]
    assert "one more" not in decoded(tool, rows[0].tokens)
    assert decoded(tool, rows[1].tokens).endswith("2<|im_end|>")


def test_what_the_prompt_supplies_is_not_trained_on(encoder: Make) -> None:
    tool = encoder("thinking", template_args={"enable_thinking": False})
    (row,) = tool.encode(said("1+1?", "2"))
    assert supervised(tool, row) == ["2<|im_end|>"]
    assert decoded(tool, row.tokens[: row.supervised[0][0]]).endswith("<think>\n\n</think>\n\n")


def test_calls_of_tools_are_trained_on_and_their_results_are_not(encoder: Make) -> None:
    tool = encoder()
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "x"}}}
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "It is 3."},
        {"role": "assistant", "content": "Three."},
    ]
    schema = {"type": "function", "function": {"name": "look"}}
    (row,) = tool.encode(json.dumps({"messages": messages, "tools": [schema]}))
    called, answered = supervised(tool, row)
    assert called.startswith("<tool_call>")
    assert json.loads(called.removeprefix("<tool_call>").split("</tool_call>")[0]) == {
        "name": "look",
        "arguments": {"at": "x"},
    }
    assert answered == "Three.<|im_end|>"
    assert json.dumps(schema)[1:-1].replace(" ", "") in decoded(tool, row.tokens).replace(" ", "")


def test_what_a_template_leaves_out_is_told(encoder: Make, tmp_path: Path) -> None:
    """In place of an answer that would be nothing but its end."""
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    messages = json.loads(said("Look.", ""))["messages"]
    messages[1]["tool_calls"] = [call]
    whole = {"messages": messages}
    with pytest.raises(UnusableRecord, match=r"message 1: .* leaves out its call of the tool 'lo"):
        encoder("closed").encode(json.dumps(whole))
    with pytest.raises(UnusableRecord, match=r"leaves out its tool 'look': .* writes tools"):
        encoder("closed").encode(said("a", "b", tools=[call]))
    with pytest.raises(UnusableRecord, match="leaves out the text of its document 0"):
        encoder("closed").encode(said("a", "b", documents=[{"title": "t", "text": "A fact."}]))
    blind = CHATML.replace("message.content", "''", 1)
    tool = ChatEncoder(chat_tokenizer(tmp_path, blind), ChatSection(length=64), "uint16")
    with pytest.raises(UnusableRecord, match="message 1: the template leaves out its content"):
        tool.encode(said("a", "some answer"))


@pytest.mark.parametrize(
    ("chat", "weights", "wanted"),
    [
        ({}, (1, 1), ["b<|im_end|>", "d<|im_end|>"]),
        ({"turns": "last"}, (1, 1), ["d<|im_end|>"]),
        ({}, (0, 1), ["d<|im_end|>"]),
        ({"turns": "last"}, (1, 0), ["b<|im_end|>"]),
    ],
)
def test_turns_may_be_left_out(
    encoder: Make, chat: dict[str, Any], weights: Sequence[int], wanted: list[str]
) -> None:
    tool = encoder(**chat)
    messages = json.loads(said("a", "b", "c", "d"))["messages"]
    messages[1]["weight"], messages[3]["weight"] = weights
    (row,) = tool.encode(json.dumps({"messages": messages}))
    assert supervised(tool, row) == wanted


def test_an_answer_that_nothing_asks_for_is_not_trained_on(encoder: Make) -> None:
    tool = encoder()
    messages = [{"role": "assistant", "content": "Hello!"}, *json.loads(said("a", "b"))["messages"]]
    (row,) = tool.encode(json.dumps({"messages": messages}))
    assert supervised(tool, row) == ["b<|im_end|>"]
    with pytest.raises(UnusableRecord, match="no message to train on"):
        tool.encode(json.dumps({"messages": messages[:1]}))


@pytest.mark.parametrize(
    ("template", "text", "reason"),
    [
        ("endless", said("a", "b"), "ends it with no special token"),
        ("chatml", said("a"), "no message to train on"),
        ("chatml", said("<|im_end|>", "b"), r"spells the special token '<\|im_end\|>'"),
        ("brackets", json.dumps({"messages": [{"role": "user"}]}), "no message to train on"),
    ],
)
def test_what_can_not_be_trained_on_exactly_is_refused(
    encoder: Make, template: str, text: str, reason: str
) -> None:
    with pytest.raises(UnusableRecord, match=reason):
        encoder(template).encode(text)


def test_a_template_that_raises_is_quoted(tmp_path: Path) -> None:
    refusing = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('a system first') }}{% endif %}"
    )
    folder = chat_tokenizer(tmp_path, refusing + CHATML)
    with pytest.raises(UnusableRecord, match="the chat template refuses it: a system first"):
        ChatEncoder(folder, ChatSection(length=64), "uint16").encode(said("a", "b"))


def test_too_long_is_refused_with_what_is_lost_or_loses_its_oldest_turns(encoder: Make) -> None:
    turns = said("a" * 40, "b" * 40, "question", "answer", "more?", "yes")
    whole = encoder().encode(turns)[0]
    with pytest.raises(TooLong, match=f"{len(whole.tokens)} tokens, .* chat.length = 40") as raised:
        encoder(length=40).encode(turns)
    assert raised.value.lost == (len(whole.tokens), whole.supervised_tokens)
    tool = encoder(length=40, too_long="cut")
    (row,) = tool.encode(turns)
    assert len(row.tokens) <= 40
    assert supervised(tool, row)[-1] == "yes<|im_end|>"
    assert "bbbb" not in decoded(tool, row.tokens)
    kept = (len(row.tokens), row.supervised_tokens)
    assert row.lost == tuple(np.array([len(whole.tokens), whole.supervised_tokens]) - kept)
    with pytest.raises(TooLong):
        encoder(length=4, too_long="cut").encode(turns)


def test_a_template_must_be_there_and_write_no_date(tmp_path: Path) -> None:
    section = ChatSection(length=8)
    with pytest.raises(CorpusError, match=r"no chat template: .* chat.template"):
        check_template(None, section, "t")
    dated = "{% if not date_string %}{% set date_string = strftime_now('%d') %}{% endif %}"
    with pytest.raises(CorpusError, match=r"other tokens tomorrow: .*date_string"):
        check_template(dated, section, "t")
    check_template(dated, ChatSection(length=8, template_args={"date_string": "1 May"}), "t")


def test_arguments_stay_with_the_template(tmp_path: Path) -> None:
    """Whoever renders it may give others."""
    value = {"a": [1, None, True], "b": 'it\'s "é"\n'}
    shows = "\nx{% if deep.a[1] is none and deep.a[2] is true %}{{ deep.b ~ flag }}{% endif %}"
    folder = chat_tokenizer(tmp_path, with_arguments(shows, {"flag": False, "deep": value}))
    loaded = AutoTokenizer.from_pretrained(folder)
    said = [{"role": "user", "content": "x"}]
    assert loaded.apply_chat_template(said, tokenize=False) == f"\nx{value['b']}False"
    assert loaded.apply_chat_template(said, tokenize=False, flag=7) == f"\nx{value['b']}7"
