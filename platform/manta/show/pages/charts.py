"""The figures of a page: plain data, which `charts.js` draws in the reader's browser.

A figure is a mapping with `kind`, `title`, `height` (pixels), and the entries of its kind:

- ``lines``: series over a horizontal axis, with vertical marks and views to choose from;
- ``rows``: bars, dots and lines in rows that have names;
- ``parallel``: axes side by side, from 0 to 1, and a line across them for each of many.

Colours are CSS colours; those below are variables of the page that follow its theme. Token
counts are short on an axis and exact under the pointer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Figure = dict[str, Any]

COLOURS = tuple(f"var(--c{number})" for number in range(10))
BLUE, ORANGE, GREEN, PURPLE = COLOURS[:4]
INK, SOFT, GREY, PALE = "var(--ink)", "var(--soft)", "var(--grey)", "var(--pale)"
TOKENS = {"title": "tokens", "format": "count", "exact": "whole"}


def series(
    name: str, x: Sequence[Any], y: Sequence[Any], color: str, *, width: float = 1.5, **more: Any
) -> Figure:
    """One line of a figure.

    Args:
        name: the text in the legend and under the pointer.
        x: the x values, increasing.
        y: one y value for each x; None where there is none.
        color: the line's CSS colour.
        width: the line's width in pixels.
        more: `steps` (the step of each point), `legend` (whether the legend lists the series),
            `group` (series that the legend hides together; by default the name), `text` (shown
            under the pointer instead of the name), `dash`, `dots`, `stairs` (a point's value
            holds up to the next), and `exact` (values between two points are true, too).
    """
    return {"name": name, "x": list(x), "y": list(y), "color": color, "width": width, **more}


def lines(
    title: str,
    data: Sequence[Figure],
    *,
    x: Figure | None = None,
    y: Figure | None = None,
    height: int = 250,
    **more: Any,
) -> Figure:
    """Series over a horizontal axis.

    Args:
        title: the title above the figure.
        data: series made by `series`; later ones are drawn on top.
        x: the x axis: `title`, `format` of its ticks, `exact` format under the pointer, `range`
            (its two ends); token counts if left out.
        y: the y axis: `format`, `zero` (whether it starts at 0), `whole` (ticks only at whole
            numbers).
        height: the figure's height in pixels.
        more: `marks` (each with an `x` and perhaps a `label`), `views` (each a `name`, and `log` or
            the ranges `x` and `y`; the first view is shown first), `reversed` (of the legend),
            `closest` (whether the pointer finds one series rather than all).
    """
    axes = {"x": x or TOKENS, "y": y or {}}
    return {"kind": "lines", "title": title, "height": height, "data": list(data), **axes, **more}


def rows(
    title: str,
    names: Sequence[str],
    *,
    x: Figure,
    height: int,
    **shapes: Any,
) -> Figure:
    """Shapes in rows.

    Args:
        title: the title above the figure.
        names: the names of the rows, from the top; empty if they are too many to be read.
        x: the x axis: `title`, `range`, `format`.
        height: the figure's height in pixels.
        shapes: `bars` (`row`, `from`, `to`, `color`, and perhaps `text` under the pointer and
            `label` behind), `dots` (`row`, `x`, `color`, `shape`, and perhaps `half` of an
            interval and `text`), `lines` (`points` as x and row, `color`, `width`, `dash`),
            `legend` (name, colour, shape), `scale` (`best`, `worst`, `colors` between), `count`
            of rows without names.
    """
    return {"kind": "rows", "title": title, "height": height, "rows": list(names), "x": x, **shapes}
