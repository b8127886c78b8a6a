"""A small plot made of braille characters: one curve, 2 × 4 dots a character."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLANK = 0x2800
# Bits of the dots of a character, by row and column (Unicode block "Braille Patterns").
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


def draw_curve(
    values: NDArray[np.float64], width: int, height: int, *, ascii_only: bool = False
) -> list[str]:
    """`height` lines of `width` characters with a curve, scaled from 0 to its maximum.

    Args:
        values: the curve at ``2 * width`` points from left to right, none below 0.
        ascii_only: draw the curve in stars, for terminals without Unicode.
    """
    grid = _rasterise(values, 4 * height)
    cells = grid.reshape(height, 4, width, 2)
    if ascii_only:
        marked = np.asarray(cells.any(axis=(1, 3)))
        return ["".join(" *"[int(cell)] for cell in row) for row in marked]
    codes = BLANK + np.einsum("hrwc,rc->hw", cells.astype(np.int64), DOTS)
    return ["".join(map(chr, row)) for row in codes]


def _rasterise(values: NDArray[np.float64], rows: int) -> NDArray[np.bool_]:
    """Dots of the curve, top row first; jumps are joined by a vertical line."""
    top = float(values.max()) or 1.0
    level = np.rint(values / top * (rows - 1)).astype(np.int64)
    before = np.concatenate([level[:1], level[:-1]])
    # A dot at the level itself, and dots between it and the level of the point before.
    low = np.where(before < level, np.minimum(before + 1, level), level)
    high = np.where(before > level, np.maximum(before - 1, level), level)
    row = np.arange(rows - 1, -1, -1)[:, None]
    return np.asarray((row >= low) & (row <= high))
