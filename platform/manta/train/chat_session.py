"""A conversation with the model of a run, or of an exported folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TextStreamer

from manta.config.errors import RunError
from manta.storage.place import Place
from manta.train.export import load_generator, sampling_of


class ChatSession:
    """Keeps the messages, and has the model answer them.

    Args:
        where: the directory of a run, its place in a store, or a folder that `export` wrote.
        system: first message of the role system; none if empty.
        tokens: most tokens of an answer.
        temperature: sampling temperature; 0 takes the most likely token each time.
        seed: seed of the sampling.

    Raises:
        RunError: if there is no model, or its tokenizer has no chat template.
    """

    def __init__(
        self, where: Place, *, system: str, tokens: int, temperature: float, seed: int
    ) -> None:
        self._lm, self._tokenizer = load_generator(where)
        if not self._tokenizer.chat_template:
            raise RunError(
                f"{where}: its tokenizer has no chat template, so it was not trained on chats: "
                "manta generate continues a text with it"
            )
        self.messages: list[dict[str, str]] = []
        if system:
            self.messages.append({"role": "system", "content": system})
        self._tokens = tokens
        self._sampling = sampling_of(temperature)
        torch.manual_seed(seed)

    def answer(self, text: str, say: Callable[[str], None]) -> float:
        """Have a message answered; both are kept.

        Args:
            text: the user's message.
            say: takes the answer piece by piece as it is written.

        Returns:
            Tokens a second.

        Raises:
            RunError: if the chat template refuses it, or the model's context is full.
        """
        self.messages.append({"role": "user", "content": text})
        ids = self._ids()
        given = torch.tensor([ids], device=self._lm.device)
        pieces = _Pieces(self._tokenizer, say)
        began = time.monotonic()
        made = self._lm.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=self._room(len(ids)),
            pad_token_id=self._tokenizer.eos_token_id,
            streamer=pieces,
            **self._sampling,
        )
        seconds = time.monotonic() - began
        self.messages.append({"role": "assistant", "content": pieces.text.strip()})
        return float((made.shape[1] - given.shape[1]) / seconds)

    def _ids(self) -> list[int]:
        """The tokens by which the model is asked for the next message."""
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                self.messages, add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # a template raises what it likes
            raise RunError(f"the chat template refuses the conversation: {error}") from None
        return ids

    def _room(self, taken: int) -> int:
        """Most tokens of an answer after some others."""
        context = getattr(self._lm.config.get_text_config(), "max_position_embeddings", None)
        room = self._tokens if context is None else min(self._tokens, context - taken)
        if room < 1:
            raise RunError(
                f"the conversation has {taken:,} tokens, and the model's context {context:,}: "
                "begin another one"
            )
        return room


class _Pieces(TextStreamer):  # type: ignore[misc]
    """Hands an answer on as it is written, without the prompt and special tokens."""

    def __init__(self, tokenizer: Any, say: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._say, self.text = say, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Take a piece of text that no later token changes."""
        self.text += text
        self._say(text)
