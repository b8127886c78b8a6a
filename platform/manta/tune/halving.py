"""Asynchronous successive halving: who goes on at a rung (Li et al., 2020, there ASHA).

Trials that come to a rung are compared with those that came before. The best 1/factor go on at
once, the others pause with their checkpoint; one that proves to be among the best later is
promoted then, and goes on from there. Trials that are still one training at a rung are one
contender: they have one score, and it counts once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal


def survivors(
    scores: Mapping[str, float], factor: float, mode: Literal["min", "max"], *, complete: bool
) -> set[str]:
    """The best 1/`factor` of the contenders at a rung.

    Args:
        scores: of those that came so far, by name.
        factor: one in so many goes on.
        mode: whether the smallest or the largest score is best.
        complete: nobody else will come: rounded up, so that one goes on in any case.
    """
    share = len(scores) / factor
    count = math.ceil(share) if complete else math.floor(share)
    sign = 1 if mode == "min" else -1
    return set(sorted(scores, key=lambda name: (sign * scores[name], name))[:count])
