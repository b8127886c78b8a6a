"""The second pass over conversations and pairs of them: what `encode` does for text.

Some that the first pass could read turn out to have nothing to train on, or more than a row holds.
They are part of a unit's record, with the place in the file, and counted with what is lost by them.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from manta.config.corpus import ChatSection
from manta.corpus.chat_template import ChatEncoder, EncodedChat, LostTokens, TooLong
from manta.corpus.conversations import UnusableRecord
from manta.corpus.documents import HASH_BYTES
from manta.corpus.encode import take_records, write_pieces, write_record
from manta.corpus.length_cost import LOSSES, Loss
from manta.corpus.pair_template import PairEncoder
from manta.corpus.readers import SHOWN_CONTENT
from manta.corpus.retrieval import retriever
from manta.sample.chat import conversations_batch
from manta.sample.tokens import TokenDtype

# Of a unit: conversations or pairs that were encoded, and rows beside the first that some of them
# became; then those that are longer than a row, those that lost turns, and the tokens of each.
COUNTS = (
    "encoded",
    "apart",
    *(f"{loss}{what}" for loss in LOSSES for what in ("", "_tokens", "_supervised")),
)


def encode_chats(order: dict[str, Any]) -> dict[str, Any]:
    """The task of one unit.

    `order` is as for `encode_unit`, with the config's section as JSON in `chat`, and the folder of
    the index of passages in `passages`, if there are some.

    Raises:
        CorpusError: if the input is no longer what it was, or the disk is full.
    """
    encoding = _Encoding(order)
    take_records(order, encoding.take)
    encoded = encoding.encoded

    def conversations(members: list[int]) -> tuple[Any, list[int]]:
        chosen = [encoded[member] for member in members]
        table = conversations_batch(
            [chat.tokens for _, chat in chosen],
            [chat.supervised for _, chat in chosen],
            [chat.starts for _, chat in chosen],
            [identity.hex() for identity, _ in chosen],
            order["source"],
            order["sources"],
            order["dtype"],
        )
        tokens = sum(len(chat.tokens) for _, chat in chosen)
        return table, [len(chosen), tokens, sum(chat.supervised_tokens for _, chat in chosen)]

    hashes = np.frombuffer(b"".join(identity for identity, _ in encoded), np.uint8)
    splits, pieces = write_pieces(order, hashes.reshape(-1, HASH_BYTES), conversations)
    ends = {int(one.tokens[e - 1]) for _, one in encoded for _, e in one.supervised}
    return write_record(
        order,
        {
            "splits": splits,
            "pieces": pieces,
            "has_padding": False,
            "refused": encoding.refused,
            "chats": encoding.counts,
            "context": encoding.context,
            "turn_ends": sorted(ends),
        },
    )


class _Encoding:
    """What becomes of a unit's conversations.

    Attributes:
        encoded: hash of each conversation or pair, and a row of it.
        refused: part, row in it, reason and begin of each that can't be used.
        counts: how many were encoded, and what the others cost.
        context: for each conversation with passages its hash, places of these, and index of the
            right one, -1 without it.
    """

    def __init__(self, order: dict[str, Any]):
        chat = ChatSection.model_validate_json(order["chat"])
        self._stops = chat.too_long == "stop"
        self._retriever = None
        if chat.context is not None:
            self._retriever = retriever(order["passages"], chat.context.model_dump_json())
        self._tool = _encoder(
            order["tokenizer"], order["tokenizer_sha256"], order["chat"], order["dtype"]
        )
        self.encoded: list[tuple[bytes, EncodedChat]] = []
        self.refused: list[tuple[int, int, str, str]] = []
        self.counts = dict.fromkeys(COUNTS, 0)
        self.context: list[tuple[str, tuple[str, ...], int]] = []

    def take(self, identity: bytes, text: str, place: tuple[int, int]) -> None:
        """Encode a conversation, or note why it can't be."""
        attached = self._retriever.attach(identity, text) if self._retriever else None
        try:
            found = self._tool.encode(attached.text if attached else text)
        except UnusableRecord as error:
            if isinstance(error, TooLong):
                self._count("too_long", error.lost)
            if self._stops or not isinstance(error, TooLong):
                self.refused.append((*place, str(error), text[:SHOWN_CONTENT]))
            return
        if attached:
            self.context.append((identity.hex(), attached.places, attached.right))
        self.counts["encoded"] += 1
        self.counts["apart"] += len(found) - 1
        if found[0].lost.tokens:
            self._count("cut", found[0].lost)
        self.encoded += [(identity, one) for one in found]

    def _count(self, loss: Loss, lost: LostTokens) -> None:
        self.counts[loss] += 1
        self.counts[f"{loss}_tokens"] += lost.tokens
        self.counts[f"{loss}_supervised"] += lost.supervised


@lru_cache(maxsize=1)
def _encoder(path: str, sha256: str, section: str, dtype: TokenDtype) -> ChatEncoder | PairEncoder:
    """The encoder of a stored tokenizer, loaded once a process; the hash keys the cache."""
    chat = ChatSection.model_validate_json(section)
    made = PairEncoder if chat.records == "pairs" else ChatEncoder
    return made(Path(path).parent, chat, dtype)
