"""What the second pass over conversations found, of all units together."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow as pa

from manta.config.corpus import ChatSection
from manta.config.errors import CorpusError
from manta.corpus.assemble import Arrange
from manta.corpus.manifest import CHAT, PAIRS
from manta.corpus.record_totals import RecordTotals, rows_by
from manta.corpus.scan import Located
from manta.corpus.tokenizer import CorpusTokenizer
from manta.sample.chat import Chat, Pairs, packed
from manta.sample.windows import windowed


class ChatTotals(RecordTotals):
    """Those of conversations or pairs.

    Attributes:
        section: the config's section on chats.
        turn_ends: the tokens that end answers.
        context: for each conversation with passages its hash, places of these, and index of the
            right one, -1 without it.
    """

    def __init__(self, section: ChatSection):
        super().__init__("chats")
        self.section = section
        self.turn_ends: set[int] = set()
        self.context: list[tuple[str, list[str], int]] = []

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest says of the format of samples."""
        sample = PAIRS if self.section.records == "pairs" else CHAT
        ends = sorted(self.turn_ends)
        return {"sample": sample, "row_length": self.section.length, "turn_ends": ends}

    def add(self, record: dict[str, Any], refused: list[Located]) -> None:
        """Take a unit's record, and where those are that it refused."""
        super().add(record, refused)
        self.turn_ends |= set(record["turn_ends"])
        self.context += [(doc_id, places, right) for doc_id, places, right in record["context"]]

    def check(self, shown: int) -> None:
        """Raise CorpusError if conversations are lost of which nothing was said, or all are.

        Args:
            shown: most of them to name.
        """
        if self.too_long and self.section.too_long == "stop":
            long = [str(one) for one in self.refused if "chat.length" in one.reason][:shown]
            kept, records = self._counts["encoded"], self.section.records
            oldest = (
                "the oldest turns of their prompts" if records == "pairs" else "their oldest turns"
            )
            raise CorpusError(
                "\n".join(
                    [
                        *long,
                        f"{self.too_long:,} of {self.too_long + kept:,} {records} are longer "
                        f"than chat.length = {self.section.length:,}, and would take "
                        f"{self._counts['too_long_supervised']:,} supervised tokens with them: set "
                        f"chat.too_long to drop (leave them out) or cut (leave out {oldest}), or "
                        "chat.length to more",
                    ]
                )
            )
        if not self._counts["encoded"]:
            reasons = "\n".join(str(one) for one in self.refused[:shown])
            raise CorpusError(
                f"{reasons}\nnone of the {self.section.records} is left to train on".strip()
            )

    def context_table(self) -> pa.Table:
        """Which passages each conversation got, by the conversation's hash."""
        names = ("doc_id", "passages", "right")
        columns = zip(*sorted(self.context), strict=True) if self.context else ([], [], [])
        types = (pa.string(), pa.list_(pa.string()), pa.int32())
        arrays = [pa.array(list(one), kind) for one, kind in zip(columns, types, strict=True)]
        return pa.table(dict(zip(names, arrays, strict=True)))

    def news(self) -> list[str]:
        """What people should hear of, beside the counts of the manifest."""
        found = []
        if self.section.context is not None:
            lacking = sum(right < 0 for _, _, right in self.context)
            found.append(
                f"{len(self.context):,} conversations got passages "
                f"({self.section.context.passages} each), {lacking:,} without the right one"
            )
        if apart := self._counts["apart"]:
            found.append(
                f"{apart:,} turns are in rows of their own: once others follow, the template or "
                "tokenizer writes them otherwise than when a model is asked for them"
            )
        return found


def rows_of(section: ChatSection, tokenizer: CorpusTokenizer) -> Arrange:
    """How the conversations or pairs of a shard become its rows."""
    made, length = Pairs if section.records == "pairs" else Chat, section.length
    form = made(tokenizer.dtype, length, tokenizer.padding)
    if section.packing == "windows":
        return rows_by(partial(windowed, schema=form.schema, length=length), length)
    return rows_by(partial(packed, form=form, alone=not section.packing), length)
