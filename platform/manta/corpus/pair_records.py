"""Records of preferences: two answers to one prompt, of which one was chosen and one rejected.

A pair is an object with ``prompt``, ``chosen`` and ``rejected``, each a list of messages, and
``tools`` and ``documents`` where it has them. The prompt is all that the two conversations begin
with in common. Its text, from which its hash and split follow, is that object as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manta.corpus.conversations import (
    Record,
    UnusableRecord,
    as_text,
    by_our_names,
    said_by,
    system_of,
)

PAIR_COLUMNS = ("prompt", "chosen", "rejected", "system", "tools", "documents")
ANSWERS = ("chosen", "rejected")


def pair_text(record: Record, columns: Mapping[str, str]) -> str:
    """A record as the text of a pair: JSON with sorted keys.

    Args:
        record: a row of a source. Its answers are texts, messages or lists of messages, after the
            prompt or with it.
        columns: a column's name here → what the source calls it.

    Raises:
        UnusableRecord: if it is no pair, or a message is none.
    """
    named = by_our_names(record, columns, PAIR_COLUMNS)
    if lacking := [name for name in ANSWERS if name not in named]:
        there = ", ".join(map(repr, list(record)[:8])) or "nothing"
        raise UnusableRecord(
            f"no pair: no '{lacking[0]}', only {there} here; needed is 'chosen' and 'rejected', "
            "and 'prompt' where these lack it: name the source's columns in chat.columns"
        )
    chosen, rejected = (said_by(named[name], "assistant", name) for name in ANSWERS)
    lead = [*system_of(named), *said_by(named.get("prompt", []), "user", "prompt")]
    if lead and not (_begins(chosen, lead) and _begins(rejected, lead)):
        chosen, rejected = [*lead, *chosen], [*lead, *rejected]
    if chosen == rejected:
        raise UnusableRecord("'chosen' and 'rejected' are the same")
    common = _in_common(chosen, rejected)
    if not common:
        raise UnusableRecord("'chosen' and 'rejected' have no prompt in common, and none is given")
    parts = {"prompt": chosen[:common], "chosen": chosen[common:], "rejected": rejected[common:]}
    return as_text(parts, named)


def _begins(messages: Sequence[Any], lead: Sequence[Any]) -> bool:
    return list(messages[: len(lead)]) == list(lead)


def _in_common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many messages both begin with."""
    same = [a == b for a, b in zip(one, other, strict=False)]
    return same.index(False) if False in same else len(same)
