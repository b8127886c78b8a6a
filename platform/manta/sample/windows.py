"""Conversations laid end to end and cut into rows of one length, wherever a row is full."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from manta.sample.columns import from_arrow
from manta.sample.padded import rows_batch

Ints = NDArray[np.int64]


class Window(NamedTuple):
    """Tokens of a row, by their places in the sequence of all conversations: begin and end."""

    begin: int
    end: int


def windows(supervised: NDArray[np.bool_], length: int) -> list[Window]:
    """Where a sequence of tokens is cut into rows of `length`, the last one shorter.

    The first token of a row is predicted by none. So a row that would begin with a token that is
    trained on begins one earlier: that token is predicted from the last one of the row before,
    which stands in both rows and is trained on in the former alone. Nothing is left out.

    Args:
        supervised: whether each token is trained on, shape (tokens,); the first one isn't.
        length: tokens of a row, 2 or more.
    """
    found, begin = list[Window](), 0
    while begin < len(supervised):
        end = min(begin + length, len(supervised))
        found.append(Window(begin, end))
        begin = end - 1 if end < len(supervised) and supervised[end] else end
    return found


def windowed(table: Any, schema: Any, length: int) -> Any:
    """The rows of a shard, of a table of conversations of one source in their order.

    A conversation may be longer than a row. Where a row begins within one, a document begins, so
    that its attention doesn't reach beyond the row's own tokens.

    Args:
        table: table of `conversations_schema`.
        schema: columns of the rows: ``tokens``, ``starts`` and ``supervised``.
        length: tokens of a row.
    """
    columns: Any = [from_arrow(table.column(name)) for name in ("tokens", "starts", "supervised")]
    tokens, starts, spans = columns
    bounds = np.cumsum([0, *tokens.lengths.tolist()], dtype=np.int64)
    begins = starts.flat + np.repeat(bounds[:-1], starts.lengths)
    flat = (spans.flat + np.repeat(bounds[:-1], spans.lengths)).reshape(-1, 2)
    cut = windows(_within(flat, int(bounds[-1])), length)
    names = table.column("doc_id").to_pylist()
    held = [
        names[slice(*np.searchsorted(bounds, (w.begin, w.end - 1), side="right") - (1, 0))]
        for w in cut
    ]
    more = {
        "tokens": [tokens.flat[w.begin : w.end] for w in cut],
        "starts": [_starts(begins, w) for w in cut],
        "supervised": [_spans(flat, w) for w in cut],
    }
    return rows_batch(more, ["+".join(one) for one in held], table, schema)


def _within(spans: Ints, tokens: int) -> NDArray[np.bool_]:
    """Which of so many tokens are in one of the spans, shape (tokens,)."""
    steps = np.zeros(tokens + 1, np.int8)
    np.add.at(steps, spans[:, 0], 1)
    np.add.at(steps, spans[:, 1], -1)
    found: NDArray[np.bool_] = np.cumsum(steps[:-1], dtype=np.int8) > 0
    return found


def _starts(begins: Ints, window: Window) -> list[int]:
    """Where documents begin in a row, the first at 0."""
    first, end = np.searchsorted(begins, (window.begin + 1, window.end))
    return [0, *(begins[first:end] - window.begin).tolist()]


def _spans(spans: Ints, window: Window) -> list[int]:
    """The parts of ascending spans that lie in a row, without the row's first token."""
    first = np.searchsorted(spans[:, 1], window.begin + 1, side="right")
    end = np.searchsorted(spans[:, 0], window.end)
    mine = spans[first:end].clip(window.begin + 1, window.end) - window.begin
    found: list[int] = mine.flatten().tolist()
    return found
