"""What the length of rows costs a corpus: records that no row holds, and parts that are cut off.

Tokens in are tokens in rows and tokens that are told here (`docs/chats.md`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from manta.config.section import Section

Loss = Literal["too_long", "cut"]
LOSSES: tuple[Loss, ...] = ("too_long", "cut")
SAYS = {"too_long": "longer than a row and left out", "cut": "cut to the length of a row"}


class LengthCost(Section):
    """What one kind of loss takes.

    Attributes:
        records: conversations, pairs or texts that are left out, or lose a part.
        tokens: tokens of these records that are in no row.
        supervised: number of these tokens that would be trained on; None for labelled texts.
    """

    records: int
    tokens: int
    supervised: int | None = None


LengthCosts = dict[Loss, LengthCost]


def costs_of(counts: Mapping[str, int]) -> LengthCosts:
    """The costs, from counters that are named after the losses.

    Args:
        counts: number of records of each loss, such as `cut`, and of tokens, in `cut_tokens` and,
            where tokens are trained on, `cut_supervised`.
    """
    return {
        loss: LengthCost(
            records=counts[loss],
            tokens=counts[f"{loss}_tokens"],
            supervised=counts.get(f"{loss}_supervised"),
        )
        for loss in LOSSES
    }


def added(several: Iterable[LengthCosts | None]) -> LengthCosts | None:
    """The costs of corpora together; None if one of them does not know its own."""
    total: LengthCosts = {}
    for costs in several:
        if costs is None:
            return None
        for loss, cost in costs.items():
            before = total.get(loss)
            total[loss] = cost if before is None else _sum(before, cost)
    return total or None


def _sum(one: LengthCost, other: LengthCost) -> LengthCost:
    supervised = None
    if one.supervised is not None and other.supervised is not None:
        supervised = one.supervised + other.supervised
    return LengthCost(
        records=one.records + other.records,
        tokens=one.tokens + other.tokens,
        supervised=supervised,
    )


def cost_lines(costs: LengthCosts | None, records: str) -> list[str]:
    """The costs for people, one a line; none if nothing was lost.

    Args:
        costs: the costs.
        records: word for the records, in the plural.
    """
    return [_line(loss, cost, records) for loss, cost in (costs or {}).items() if cost.records]


def _line(loss: Loss, cost: LengthCost, records: str) -> str:
    trained = f", {cost.supervised:,} of them supervised" if cost.supervised is not None else ""
    return f"{cost.records:,} {records} {SAYS[loss]}: {cost.tokens:,} tokens{trained}"
