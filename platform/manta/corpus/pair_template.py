"""Pairs of answers → tokens by a chat template: two conversations that go into one row.

Of each the answer's tokens are trained on, found as those of any conversation are; the prompt's are
not, whoever speaks in it. Answers are never cut: what fits into no row is told with what it costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from manta.config.corpus import ChatSection
from manta.corpus.chat_template import (
    ChatEncoder,
    EncodedChat,
    Messages,
    fitting,
    without_oldest,
)
from manta.corpus.conversations import UnusableRecord
from manta.corpus.pair_records import ANSWERS
from manta.sample.tokens import TokenDtype


class PairEncoder:
    """Encodes pairs with the template and tokenizer in a folder.

    Args:
        folder: folder of the tokenizer in its canonical form, with its chat template.
        section: the config's section on chats.
        dtype: type of the tokens.
    """

    def __init__(self, folder: Path, section: ChatSection, dtype: TokenDtype):
        self._chats = ChatEncoder(folder, section, dtype)

    def encode(self, text: str) -> list[EncodedChat]:
        """A pair as one part of a row: the chosen conversation, then the rejected one.

        Args:
            text: the pair's text, from `pair_text`.

        Raises:
            TooLong: if both are longer than a row together, and nothing is to be cut.
            UnusableRecord: if an answer can't be trained on exactly, or both are the same tokens.
        """
        whole = self._chats.parsed(text)
        encoded = [self._pair(whole, whole["prompt"])]
        return fitting(encoded, self._shorter(whole), self._chats.section)

    def _shorter(self, whole: dict[str, Any]) -> Iterator[list[EncodedChat]]:
        for prompt in without_oldest(whole["prompt"]):
            yield [self._pair(whole, prompt)]

    def _pair(self, whole: dict[str, Any], prompt: Messages) -> EncodedChat:
        chosen, rejected = (self._side(whole, prompt, name) for name in ANSWERS)
        if np.array_equal(chosen.tokens, rejected.tokens):
            raise UnusableRecord("chosen and rejected are the same tokens by the chat template")
        start = len(chosen.tokens)
        moved = ((begin + start, end + start) for begin, end in rejected.supervised)
        return EncodedChat(
            np.concatenate([chosen.tokens, rejected.tokens]),
            (*chosen.supervised, *moved),
            (0, start),
        )

    def _side(self, whole: dict[str, Any], prompt: Messages, name: str) -> EncodedChat:
        """One conversation of a pair."""
        answer = whole[name]
        roles = self._chats.section.supervise
        if not answer or answer[0]["role"] not in roles:
            begins = f"a message of {answer[0]['role']}" if answer else "nothing"
            raise UnusableRecord(
                f"{name}: after the messages that both have in common comes {begins}, where an "
                f"answer of {' or '.join(roles)} should be: both must answer the same prompt"
            )
        messages = [*({**message, "weight": 0} for message in prompt), *answer]
        try:
            encoded = self._chats.encoded({**whole, "messages": messages})
        except UnusableRecord as error:
            raise UnusableRecord(f"{name}: {error}") from None
        if len(encoded) > 1:
            raise UnusableRecord(
                f"{name}: once others follow, the template or tokenizer writes a turn of it "
                "otherwise than when a model is asked for it: set chat.turns to last, which trains "
                "on the last turn alone"
            )
        return encoded[0]
