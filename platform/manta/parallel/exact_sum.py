"""Sums that are the same to the bit in any order and over any number of ranks.

Float addition rounds, so its result depends on the order. Here each summand is first rounded to a
multiple of a quantum, a power of two; float64 then adds exactly, as long as no sum reaches 2^51
quanta. Rounding needs no pass of its own: a total that begins at 1.5 · 2^52 quanta has the quantum
as its last bit, so each addition rounds the summand to it (Demmel and Nguyen, "Fast Reproducible
Floating-Point Summation", IEEE ARITH 2013, with one bin).

The error of a sum is at most half a quantum for each summand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from manta.parallel.ranks import Ranks

# Quanta of a grid's unit, and units that a sum must stay below: 2^41 · 2^10 = 2^51 quanta.
QUANTA, LIMIT = 2.0**41, 2.0**10
# Factor that moves a summand away from zero by its last bit in float64. Else one that lies half
# way between two multiples of the quantum would be rounded by the total's last bit: by the order.
AWAY = 1 + 2.0**-52
# Elements that are added at a time on a CPU: Torch makes a float64 copy of them, in the cache.
PIECE = 2**16
# Grid of the squares of a norm, and of what that leaves of them: 2^51 quanta are 2^20 units².
SQUARE_QUANTA = 2.0**31


class Grid:
    """Multiples of a quantum: `unit` / 2^41, for sums below 2^10 units.

    Args:
        unit: the scale of what is summed, more than 0; rounded up to a power of two.
    """

    def __init__(self, unit: float):
        self._unit = 2.0 ** math.ceil(math.log2(unit))
        self.quantum = self._unit / QUANTA
        self.limit = self._unit * LIMIT
        self._zero = 1.5 * 2.0**52 * self.quantum

    def clear(self, totals: Tensor) -> None:
        """Begin sums, float64 of any shape."""
        totals.fill_(self._zero)

    def add(self, totals: Tensor, summands: Tensor) -> None:
        """Add to each total a summand, of any float type and of the same shape.

        No summand may be more than `limit` divided by the number of summands; one that is not
        finite makes its total so.
        """
        for total, summand in zip(_split(totals.view(-1)), _split(summands), strict=True):
            total.add_(summand, alpha=AWAY)

    def end(self, totals: Tensor) -> None:
        """Make totals the sums themselves, in place: multiples of the quantum, to add exactly."""
        totals.sub_(self._zero)

    def rounded(self, values: Tensor) -> Tensor:
        """`values` as multiples of the quantum, float64, rounded as `add` does."""
        found = torch.empty(values.shape, dtype=torch.float64, device=values.device)
        self.clear(found)
        self.add(found, values)
        self.end(found)
        return found

    def norm(self, parts: Iterable[Tensor], count: int, ranks: Ranks | None = None) -> Tensor:
        """The L2 norm of all elements, float32 scalar: the same however they are divided.

        Args:
            parts: the elements that this rank has, of any shapes, on one device.
            count: number of elements over all parts and ranks.
            ranks: over whom the elements are divided; None if this rank has all of them.

        Returns:
            NaN if an element is not finite, or the norm is not below `limit`.
        """
        square = SQUARE_QUANTA / self._unit**2
        coarse = 1.5 * 2.0**52 / square
        # What the coarse grid leaves of a square is at most half its quantum, in any number.
        fine = 1.5 * 2.0 ** math.ceil(math.log2(max(1, count))) / square
        sums = [_sums_of_squares(piece, coarse, fine) for part in parts for piece in _split(part)]
        found = torch.stack(sums).sum(0) if sums else torch.zeros(2, dtype=torch.float64)
        total = found if ranks is None else ranks.sum(found.to(ranks.device))
        inside = total[0] < self.limit**2
        return torch.where(inside, total.sum(), math.nan).sqrt().float()


def _sums_of_squares(values: Tensor, coarse: float, fine: float) -> Tensor:
    """The sum of squares on a coarse grid, and of what it leaves on a fine one, float64 (2,)."""
    squares = values.double().square()
    on_grid = squares.add(coarse).sub_(coarse)
    left = squares.sub_(on_grid).add_(fine).sub_(fine)
    return torch.stack([on_grid.sum(), left.sum()])


def _split(values: Tensor) -> Sequence[Tensor]:
    """All elements in pieces that fit in a CPU's cache; in one piece on another device."""
    flat = values.reshape(-1)
    return torch.split(flat, PIECE) if values.device.type == "cpu" else [flat]
