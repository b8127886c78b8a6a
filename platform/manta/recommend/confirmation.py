"""The confirmation: is the tuned schedule as good as the constant batch, at equal tokens?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manta.recommend.measured import Confirmed, Interval
from manta.show.compare.comparison_stats import estimate, pooled_noise

CONSTANT, TUNED = "constant batch", "tuned schedule"
NOTHING = Confirmed(
    constant=[],
    tuned=[],
    gap=None,
    verdict="nothing to confirm: the tuned schedule has the constant batch",
)


def confirmed(
    constant: Sequence[float | None], tuned: Sequence[float | None], steps: tuple[int, int]
) -> Confirmed:
    """The difference of losses by seed, with its 95 % t-interval.

    Args:
        constant: validation losses of the constant batch, one for each seed; None if diverged.
        tuned: validation losses of the tuned schedule, with the same seeds.
        steps: optimizer steps of both.
    """
    pairs = [
        (a, b) for a, b in zip(constant, tuned, strict=True) if a is not None and b is not None
    ]
    if len(pairs) < len(constant):
        lost = [sum(each is None for each in losses) for losses in (constant, tuned)]
        verdict = f"diverged: {lost[0]} runs of the constant batch, {lost[1]} of the tuned schedule"
        return Confirmed(constant=list(constant), tuned=list(tuned), gap=None, verdict=verdict)
    gaps = [b - a for a, b in pairs]
    half = estimate(gaps, pooled_noise([gaps])).half or 0.0  # a tuning has two seeds or more
    mean = float(np.mean(gaps))
    gap = Interval(value=mean, low=mean - half, high=mean + half)
    return Confirmed(
        constant=list(constant), tuned=list(tuned), gap=gap, verdict=_verdict(mean, half, steps)
    )


def _verdict(mean: float, half: float, steps: tuple[int, int]) -> str:
    saved = f"{steps[1]:,} steps instead of {steps[0]:,}"
    if abs(mean) <= half:
        return f"within noise: {mean:+.4f} ± {half:.4f} nats, in {saved}"
    better = "better" if mean < 0 else "worse"
    return f"{better}: {mean:+.4f} ± {half:.4f} nats, which is more than noise, in {saved}"
