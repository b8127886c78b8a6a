"""The figures of a page: plain data, which `charts.js` draws in the reader's browser.

A figure is a mapping of `kind`, `title`, `height` (pixels), and of what its kind has:

- ``lines``: series over a horizontal axis, with vertical marks and views to choose from;
- ``rows``: bars, dots and lines in rows that have names;
- ``parallel``: axes side by side, from 0 to 1, and a line across them for each of many.

A colour is one of CSS; those below are of the page, and change with its theme. Tokens are
written in short on an axis and whole under the pointer.
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
        name: in the legend and under the pointer.
        x: growing.
        y: as many; None where there is no value.
        color: of CSS.
        width: in pixels.
        more: `steps` (of each point), `legend` (whether it stands there), `group` (what the
            legend hides together; else the name), `text` (under the pointer, in place of the
            name), `dash`, `dots`, `stairs` (from a point on, its value holds), and `exact` (the
            line between two points is what it shows, not just a link of them).
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
        title: above it.
        data: made by `series`; later ones lie on top.
        x: the axis: `title`, `format` of its ticks, `exact` format under the pointer; tokens if
            left out. A `range` is where it begins and ends.
        y: the axis: `format`, `zero` (whether it begins there), `whole` (no ticks in between).
        height: in pixels.
        more: `marks` (each an `x` and perhaps a `label`), `views` (each a `name`, and `log` or
            the ranges `x` and `y`; the first is shown at first), `reversed` (the legend),
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
        title: above it.
        names: of the rows, from the top; none if they are too many to be read.
        x: the axis: `title`, `range`, `format`.
        height: in pixels.
        shapes: `bars` (`row`, `from`, `to`, `color`, and perhaps `text` under the pointer and
            `label` behind), `dots` (`row`, `x`, `color`, `shape`, and perhaps `half` of an
            interval and `text`), `lines` (`points` as x and row, `color`, `width`, `dash`),
            `legend` (name, colour, shape), `scale` (`best`, `worst`, `colors` between), `count`
            of rows without names.
    """
    return {"kind": "rows", "title": title, "height": height, "rows": list(names), "x": x, **shapes}
