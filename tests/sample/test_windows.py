"""Windows of conversations: no token is lost, and each that is trained on is predicted once."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manta.sample.chat import Chat, conversations_batch
from manta.sample.windows import windowed

# Of each conversation: which of its tokens are trained on, never the first.
CHATS = st.lists(st.lists(st.booleans(), max_size=40).map(lambda m: [False, *m]), min_size=1)


def spans_of(mask: list[bool]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff([0, *mask, 0])).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def rows_of(masks: list[list[bool]], length: int) -> list[dict[str, Any]]:
    """The rows of conversations whose tokens are numbered through."""
    numbers = iter(range(sum(map(len, masks))))
    tokens = [np.array([next(numbers) for _ in mask], np.uint16) for mask in masks]
    names = [f"c{place}" for place in range(len(masks))]
    spans = [spans_of(mask) for mask in masks]
    table = conversations_batch(tokens, spans, [[0]] * len(masks), names, 0, ["s"], "uint16")
    rows: list[dict[str, Any]] = windowed(table, Chat("uint16", length, 0).schema, length)
    return rows.to_pylist()  # type: ignore[attr-defined,no-any-return]


@given(CHATS, st.integers(2, 30))
def test_each_token_is_in_a_row_and_each_supervised_one_is_predicted_once(
    masks: list[list[bool]], length: int
) -> None:
    rows, flat = rows_of(masks, length), [value for mask in masks for value in mask]
    assert sorted({token for row in rows for token in row["tokens"]}) == list(range(len(flat)))
    assert all(len(row["tokens"]) == length for row in rows[:-1])
    bounds = [list(zip(r["supervised"][::2], r["supervised"][1::2], strict=True)) for r in rows]
    predicted = [
        row["tokens"][place]
        for row, spans in zip(rows, bounds, strict=True)
        for begin, end in spans
        for place in range(begin, end)
    ]
    assert predicted == np.flatnonzero(flat).tolist()
    assert all(begin >= 1 for spans in bounds for begin, _ in spans), "from a token before it"
    repeated = sum(len(row["tokens"]) for row in rows) - len(flat)
    assert repeated == sum(flat[row["tokens"][0] + 1] for row in rows[1:] if _repeats(row, rows))


def _repeats(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    return rows[rows.index(row) - 1]["tokens"][-1] == row["tokens"][0]


@given(CHATS, st.integers(2, 30))
def test_documents_of_a_row_are_the_conversations_in_it(
    masks: list[list[bool]], length: int
) -> None:
    begins = [0, *accumulate(map(len, masks))]
    for row in rows_of(masks, length):
        first, end = row["tokens"][0], row["tokens"][-1] + 1
        mine = [at - first for at in begins[:-1] if first < at < end]
        assert row["starts"] == [0, *mine]
        there = [i for i in range(len(masks)) if begins[i] < end and begins[i + 1] > first]
        assert row["doc_id"] == "+".join(f"c{i}" for i in there)
        assert row["source"] == "s"
