"""A strong 64-bit mixing function, vectorised: the hash of the sample order and the ledger."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

# Two multipliers and three shifts found by search for the avalanche of a 64-bit finaliser:
# variant 13 of D. Stafford, "Better Bit Mixing" (2011), as in SplitMix64 (Steele et al., 2014).
MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def mix64(values: U64) -> U64:
    """A bijection of 64-bit integers in which each input bit flips about half of the output.

    Works in place and returns `values`. Zero maps to zero: add a constant beforehand
    where that matters.
    """
    aside = values >> SHIFTS[0]
    values ^= aside
    values *= MULTIPLIERS[0]
    np.right_shift(values, SHIFTS[1], out=aside)
    values ^= aside
    values *= MULTIPLIERS[1]
    np.right_shift(values, SHIFTS[2], out=aside)
    values ^= aside
    return values
