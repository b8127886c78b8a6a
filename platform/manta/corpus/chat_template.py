"""Conversations → tokens by a chat template, with the spans of tokens that are trained on.

Templates as models ship them mark nothing. What the assistant is to write in a turn is the
difference of two renderings: of the messages before it with the prompt that a model is given to
answer, and of the messages up to it. So exactly that is trained on which a model has to write when
it is used, up to the special token that ends its turn, and after the same token ids by which it is
asked then. A template under which this can't be told is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from manta.config.corpus import ChatSection
from manta.config.errors import CorpusError
from manta.corpus.canonical import TOKENIZER_FILE, parsed
from manta.corpus.conversations import UnusableRecord
from manta.sample.tokens import TokenDtype

Messages = Sequence[Mapping[str, Any]]


class LostTokens(NamedTuple):
    """Tokens that are in no row, as a row is not long enough for them.

    Attributes:
        tokens: number of all of them.
        supervised: number of those that would be trained on.
    """

    tokens: int
    supervised: int


NOTHING = LostTokens(0, 0)


class TooLong(UnusableRecord):
    """A conversation, or a pair of them, that does not fit into a row.

    Attributes:
        lost: tokens that are lost with it.
    """

    def __init__(self, longest: int, lost: LostTokens, length: int):
        super().__init__(f"{longest:,} tokens, which is more than chat.length = {length:,}")
        self.lost = lost


@dataclass(frozen=True)
class EncodedChat:
    """What goes into a row as a whole: a conversation, the part of one up to a turn, or a pair.

    Attributes:
        tokens: token ids, shape (tokens,).
        supervised: (begin, end) of each span of tokens that is trained on, ascending.
        starts: where each of its conversations begins, the first at 0.
        lost: tokens of the turns that were left out so that it fits into a row.
    """

    tokens: NDArray[np.unsignedinteger]
    supervised: tuple[tuple[int, int], ...]
    starts: tuple[int, ...] = (0,)
    lost: LostTokens = NOTHING

    @property
    def supervised_tokens(self) -> int:
        """How many tokens are trained on."""
        return sum(end - begin for begin, end in self.supervised)


@dataclass(frozen=True)
class _Turn:
    """What is trained on of one message: characters `begin` to `end` of a rendering.

    Attributes:
        text: the rendering of the messages up to this one, which ends with it.
        begin: where the prompt for an answer is over.
        end: where the special token that ends the turn is over.
    """

    text: str
    begin: int
    end: int


class ChatEncoder:
    """Encodes conversations with the template and tokenizer in a folder.

    Args:
        folder: folder of the tokenizer in its canonical form, with its chat template.
        section: the config's section on chats.
        dtype: type of the tokens.

    Attributes:
        section: the config's section on chats.
    """

    def __init__(self, folder: Path, section: ChatSection, dtype: TokenDtype):
        from transformers import PreTrainedTokenizerFast  # a second, in a worker

        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a worker has one CPU
        self.section, self._dtype = section, np.dtype(dtype)
        self._loaded = PreTrainedTokenizerFast.from_pretrained(folder)
        content = (folder / TOKENIZER_FILE).read_bytes()
        self._tokenizer = parsed(content, str(folder))
        special = {
            token["content"]: int(token["id"])
            for token in json.loads(content).get("added_tokens", [])
            if token["special"]
        }
        self._special_ids = frozenset(special.values())
        self._special = _any_of(special)
        self._special_in_json = _any_of(json.dumps(token)[1:-1] for token in special)

    def encode(self, text: str) -> list[EncodedChat]:
        """A conversation as one row, or as several where the template rewrites earlier turns.

        Args:
            text: the conversation's text, from `conversation_text`.

        Raises:
            TooLong: if it is longer than a row, and nothing is to be cut.
            UnusableRecord: if nothing in it can be trained on, or not exactly.
        """
        whole = self.parsed(text)
        return fitting(self.encoded(whole), self._shorter(whole), self.section)

    def parsed(self, text: str) -> dict[str, Any]:
        """The object whose text it is; UnusableRecord if it spells a special token."""
        if found := self._special_in_json.search(text):
            raise UnusableRecord(
                f"its text spells the special token {found.group()!r}, which would be read as one"
            )
        whole: dict[str, Any] = json.loads(text)
        return whole

    def _shorter(self, whole: dict[str, Any]) -> Iterator[list[EncodedChat]]:
        for messages in without_oldest(whole["messages"]):
            yield self.encoded({**whole, "messages": messages})

    def encoded(self, whole: dict[str, Any]) -> list[EncodedChat]:
        """A conversation of any length, as its object.

        Raises:
            UnusableRecord: if nothing in it can be trained on, or not exactly.
        """
        messages = whole["messages"]
        turns = [self._turn(whole, place) for place in self._supervised(messages)]
        if not turns:
            roles = ", ".join(self.section.supervise)
            raise UnusableRecord(f"no message to train on: none that answers is of {roles}")
        rendered = self._render(whole, messages)
        _refuse_left_out(whole, rendered)
        ids, offsets = self._tokenized(rendered)
        spans, apart = [], []
        for turn in turns:
            span = None
            if rendered.startswith(turn.text[: turn.end]):
                span = self._span(turn, ids, offsets)
            if span is None:
                apart.append(self._alone(turn))
            else:
                spans.append(span)
        # Apart is a turn before which something else stood when it was written: a template may drop
        # the thinking of earlier turns, and some tokenizers join what ends a text otherwise.
        row = EncodedChat(np.array(ids, self._dtype), tuple(spans))
        return [row, *apart] if spans else apart

    def _supervised(self, messages: Messages) -> list[int]:
        """Which messages are trained on; never the first, as no prompt asks a model for it."""
        places = [
            place
            for place, message in enumerate(messages)
            if place and message["role"] in self.section.supervise and message.get("weight", 1)
        ]
        return places[-1:] if self.section.turns == "last" else places

    def _turn(self, whole: dict[str, Any], place: int) -> _Turn:
        messages = whole["messages"]
        before = self._render(whole, messages[:place], prompt=True)
        text = self._render(whole, messages[: place + 1])
        if not text.startswith(before):
            raise UnusableRecord(
                f"message {place}: the template asks a model for an answer by "
                f"{before[-40:]!r}, which is not what it writes before the answer itself; give "
                "chat.template_args, such as enable_thinking: false, or another chat.template"
            )
        found = [one.span() for one in self._special.finditer(text, len(before))]
        if not found or text[found[-1][1] :].strip():
            raise UnusableRecord(
                f"message {place}: the template ends it with no special token, by which a model "
                "could learn to stop; give another chat.template"
            )
        end = self._end_of_turn(whole, place, text, found)
        _refuse_unwritten(messages[place], place, text[len(before) : end])
        return _Turn(text, len(before), end)

    def _end_of_turn(
        self, whole: dict[str, Any], place: int, text: str, found: Sequence[tuple[int, int]]
    ) -> int:
        """Where the special token that ends a turn is over.

        It is the last one, but for a template that ends the turn and then the whole text, such as
        by an EOS in a line of its own: only the first of these stands there once others follow.

        Args:
            whole: the conversation.
            place: index of the turn's message.
            text: the rendering of the messages up to the turn.
            found: (begin, end) of each special token of the turn.
        """
        last = found[-1][1]
        gaps = [
            (end, begin) for (_, end), (begin, _) in pairwise(found) if text[end:begin].isspace()
        ]
        ends = [end for end, _ in gaps if not self._special.sub("", text[end:last]).strip()]
        if not ends:
            return last
        asked = [*whole["messages"][: place + 1], {"role": "user", "content": "?"}]
        with contextlib.suppress(UnusableRecord):  # a template may want another message there
            later = self._render(whole, asked)
            return next(
                (end for end in (last, *reversed(ends)) if later.startswith(text[:end])), last
            )
        return last

    def _span(
        self, turn: _Turn, ids: list[int], offsets: list[tuple[int, int]]
    ) -> tuple[int, int] | None:
        """The tokens of a turn, if those before it are the ones by which a model is asked."""
        begin, end = (bisect_left(offsets, (at, 0)) for at in (turn.begin, turn.end))
        # Special tokens divide a text: what is before the last of them is encoded by itself.
        specials = [found.start() for found in self._special.finditer(turn.text, 0, turn.begin)]
        last = specials[-1] if specials else 0
        asked, _ = self._tokenized(turn.text[last : turn.begin])
        first = bisect_left(offsets, (last, 0))
        same = ids[first:begin] == asked and (not begin or offsets[begin - 1][1] <= turn.begin)
        return (begin, end) if same and ids[end - 1] in self._special_ids else None

    def _alone(self, turn: _Turn) -> EncodedChat:
        """A turn in a row of its own, after the tokens by which a model is asked for it."""
        text = turn.text[: turn.end]
        asked, _ = self._tokenized(text[: turn.begin])
        ids, _ = self._tokenized(text)
        if ids[: len(asked)] != asked:
            answer, _ = self._tokenized(text[turn.begin :])
            if self._decoded(asked + answer) != self._decoded(ids):
                raise UnusableRecord(
                    "the tokenizer joins the end of the template's prompt and the begin of the "
                    f"answer: {text[max(0, turn.begin - 20) : turn.begin + 20]!r}"
                )
            ids = asked + answer
        return EncodedChat(np.array(ids, self._dtype), ((len(asked), len(ids)),))

    def _tokenized(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def _decoded(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def _render(self, whole: dict[str, Any], messages: Messages, *, prompt: bool = False) -> str:
        try:
            text: str = self._loaded.apply_chat_template(
                [{k: v for k, v in message.items() if k != "weight"} for message in messages],
                tools=whole.get("tools"),
                documents=whole.get("documents"),
                add_generation_prompt=prompt,
                tokenize=False,
            )
        except Exception as error:  # a template raises what it likes
            raise UnusableRecord(f"the chat template refuses it: {error}") from None
        return text


def fitting(
    encoded: list[EncodedChat], shorter: Iterator[list[EncodedChat]], section: ChatSection
) -> list[EncodedChat]:
    """What fits into rows: what was encoded, or the first of its shorter forms that does.

    Windows hold parts of what is longer than a row.

    Args:
        encoded: the whole, as it goes into rows.
        shorter: forms of it with fewer turns, the longest first; looked at if `too_long` is cut.
        section: the config's section on chats.

    Raises:
        TooLong: if nothing fits.
    """
    longest = max(len(one.tokens) for one in encoded)
    if longest <= section.length or section.packing == "windows":
        return encoded
    if section.too_long == "cut":
        with contextlib.suppress(UnusableRecord):  # such a form, and all after it
            for form in shorter:
                if max(len(one.tokens) for one in form) <= section.length:
                    return [replace(form[0], lost=_lost(encoded, form)), *form[1:]]
    raise TooLong(longest, _lost(encoded), section.length)


def _lost(encoded: Sequence[EncodedChat], kept: Sequence[EncodedChat] = ()) -> LostTokens:
    """What is lost if of the rows of one record only others are kept, or none."""
    (tokens, supervised), (left, trained) = (
        (sum(len(one.tokens) for one in rows), sum(one.supervised_tokens for one in rows))
        for rows in (encoded, kept)
    )
    return LostTokens(tokens - left, supervised - trained)


def without_oldest(messages: Messages) -> Iterator[list[Mapping[str, Any]]]:
    """The messages without those before the second of the user, before the third, and so on.

    The system's are kept.
    """
    lead = [m for m in messages[:1] if m["role"] in ("system", "developer")]
    asked = [place for place, m in enumerate(messages) if m["role"] == "user"]
    for place in asked[1:]:
        yield [*lead, *messages[place:]]


def _refuse_unwritten(message: Mapping[str, Any], place: int, written: str) -> None:
    """Raise UnusableRecord if a template leaves out of a turn what a model is to write.

    Args:
        message: the turn's message.
        place: index of the message.
        written: text that the template makes of the message.
    """
    if _last_word(message.get("content") or "") not in written:
        raise UnusableRecord(
            f"message {place}: the template leaves out its content: give another chat.template"
        )
    for call in message.get("tool_calls", ()):
        name = call["function"]["name"]
        if name not in written:
            raise UnusableRecord(
                f"message {place}: the template leaves out its call of the tool '{name}': give a "
                "chat.template that writes calls of tools"
            )


def _refuse_left_out(whole: Mapping[str, Any], rendered: str) -> None:
    """Raise UnusableRecord if a template leaves out a tool or document of a conversation."""
    for number, document in enumerate(whole.get("documents") or ()):
        text = document.get("text") if isinstance(document, Mapping) else None
        if isinstance(text, str) and _last_word(text) not in rendered:
            raise UnusableRecord(
                f"the template leaves out the text of its document {number}: give a chat.template "
                "that writes documents, or leave out the column (chat.columns: {documents: none})"
            )
    for tool in whole.get("tools") or ():
        name = tool.get("function", tool).get("name") if isinstance(tool, Mapping) else None
        if isinstance(name, str) and name not in rendered:
            raise UnusableRecord(
                f"the template leaves out its tool '{name}': give a chat.template that writes "
                "tools, or leave out the column (chat.columns: {tools: none})"
            )


def _last_word(text: str) -> str:
    """The end of a text that a template writes if it writes the text, however it strips it."""
    *_, last = text.split() or [""]
    return last


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def check_template(template: str | None, section: ChatSection, shown: str) -> str:
    """A chat template, if there is one, and it does not write today's date; else CorpusError."""
    if not isinstance(template, str):
        raise CorpusError(
            f"tokenizer {shown}: it has no chat template: name a Jinja file in chat.template"
        )
    if "strftime_now" in template and "date_string" not in section.template_args:
        raise CorpusError(
            f"tokenizer {shown}: its chat template writes the day on which it is used, so that the "
            "same chats would be other tokens tomorrow: fix it, for most templates by "
            "chat.template_args: {date_string: 26 Jul 2024}, or give another chat.template"
        )
    return template


def with_arguments(template: str, arguments: Mapping[str, JsonValue]) -> str:
    """A template that has these arguments where whoever renders it gives none of the name.

    So the model is asked as it was trained, also where it is served by another tool.
    """
    given = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}"
        for name, value in sorted(arguments.items())
    )
    # Jinja leaves out a line break after a block, but not after an expression.
    return f'{given}{{{{ "" }}}}{template}' if given else template


def _literal(value: JsonValue) -> str:
    """A value as Jinja writes it."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)}: {_literal(inner)}" for key, inner in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
