"""The second pass over labelled texts: what `encode` does for text.

A text that is longer than a row is cut or part of the unit's record, with its place in the file.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np

from manta.config.corpus import LabelledSection
from manta.corpus.documents import HASH_BYTES, SPLITS, split_of
from manta.corpus.encode import stands_in, take_records, write_pieces, write_record
from manta.corpus.length_cost import LOSSES, Loss
from manta.corpus.readers import SHOWN_CONTENT
from manta.corpus.tokenizer import ENCODE_BYTES, encoder
from manta.sample.labelled import texts_batch

# Of a unit: texts that are longer than a row, those that are cut to it, and the tokens of each.
COUNTS = tuple(f"{loss}{what}" for loss in LOSSES for what in ("", "_tokens"))


def encode_labelled(order: dict[str, Any]) -> dict[str, Any]:
    """The task of one unit.

    `order` is as for `encode_unit`, with the config's section as JSON in `labelled` and the names
    of all `classes`, none where labels are numbers.

    Raises:
        CorpusError: if the input is no longer what it was, or the disk is full.
    """
    encoding = _TextEncoding(order)
    take_records(order, encoding.take)
    encoding.flush()
    return encoding.write(order)


class _TextEncoding:
    """What becomes of a unit's texts."""

    def __init__(self, order: dict[str, Any]):
        self._section = LabelledSection.model_validate_json(order["labelled"])
        self._pad_id = order["pad_id"]
        self._tool = encoder(
            order["tokenizer"],
            order["tokenizer_sha256"],
            tuple(order["begins_with"]),
            order["eos_id"],
            order["dtype"],
        )
        self._held: list[tuple[bytes, dict[str, Any], tuple[int, int]]] = []
        self._held_bytes = 0
        self._counts = dict.fromkeys(COUNTS, 0)
        self._encoded: list[tuple[bytes, Any, Any]] = []  # identity, tokens, label
        self._refused: list[tuple[int, int, str, str]] = []

    def take(self, identity: bytes, text: str, place: tuple[int, int]) -> None:
        """Have a record encoded, by the next `flush` at the latest."""
        self._held.append((identity, json.loads(text), place))
        self._held_bytes += len(text)
        if self._held_bytes >= ENCODE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Encode the records that were taken."""
        held, self._held, self._held_bytes = self._held, [], 0
        for (identity, record, place), tokens in zip(
            held, self._tool.encode([record["text"] for _, record, _ in held]), strict=True
        ):
            # A text is scored at its own last token, as by whoever tokenizes it alone: no EOS.
            self._add(identity, record, place, tokens[:-1])

    def _add(
        self, identity: bytes, record: dict[str, Any], place: tuple[int, int], tokens: Any
    ) -> None:
        length, text = self._section.length, record["text"][:SHOWN_CONTENT]
        if not len(tokens):
            self._refused.append((*place, "the tokenizer makes no token of its text", text))
            return
        if len(tokens) > length:
            if self._section.too_long != "cut":
                self._count("too_long", len(tokens))
                if self._section.too_long == "stop":
                    why = f"{len(tokens):,} tokens, which is more than labelled.length = {length:,}"
                    self._refused.append((*place, why, text))
                return
            self._count("cut", len(tokens) - length)
        self._encoded.append((identity, tokens[:length], record["label"]))

    def _count(self, loss: Loss, tokens: int) -> None:
        self._counts[loss] += 1
        self._counts[f"{loss}_tokens"] += tokens

    def write(self, order: dict[str, Any]) -> dict[str, Any]:
        """Write the unit's pieces and its record, which is returned."""
        numbers = self._section.labels == "numbers"
        number_of = {name: number for number, name in enumerate(order["classes"])}

        def texts(members: list[int]) -> tuple[Any, list[int]]:
            chosen = [self._encoded[member] for member in members]
            table = texts_batch(
                [tokens for _, tokens, _ in chosen],
                [label if numbers else number_of[label] for _, _, label in chosen],
                [identity.hex() for identity, _, _ in chosen],
                order["source"],
                order["sources"],
                order["dtype"],
                numbers=numbers,
            )
            return table, [len(chosen), sum(len(tokens) for _, tokens, _ in chosen)]

        hashes = np.frombuffer(b"".join(identity for identity, _, _ in self._encoded), np.uint8)
        hashes = hashes.reshape(-1, HASH_BYTES)
        splits, pieces = write_pieces(order, hashes, texts)
        labels: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
        if not numbers:
            found = split_of(hashes, order["bounds"]).tolist()
            for split, (_, _, name) in zip(found, self._encoded, strict=True):
                labels[SPLITS[split]][name] += 1
        return write_record(
            order,
            {
                "splits": splits,
                "pieces": pieces,
                "has_padding": stands_in(self._pad_id, [tokens for _, tokens, _ in self._encoded]),
                "refused": self._refused,
                "texts": {"texts": len(self._encoded), **self._counts},
                "labels": labels,
            },
        )
