"""The critical batch size by branching: what is trained, and what the losses say.

From the checkpoints of one trunk at several depths, forks at several batch sizes are trained to the
same tokens; their rates are scaled with the batch. The critical size is the largest that loses less
than a tolerance (Merrill et al., 2025, arXiv:2505.23971). Forks of a depth and seed see the same
samples, so that their losses are compared in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manta.config.errors import ConfigError
from manta.config.units import format_tokens
from manta.recommend.measured import CriticalAt, CriticalFound, Interval, SizeLosses
from manta.recommend.stairs import Stair, rising
from manta.record.number_format import significant
from manta.show.compare.comparison_stats import estimate, pooled_noise

FACTORS = (1, 2, 4, 8)
DEPTHS = ("2%", "5%", "10%")
# Steps that the largest batch of a fork has at least: after fewer, a loss says little.
FEWEST_STEPS = 4


@dataclass(frozen=True)
class Trunk:
    """What the trunk is trained by.

    Attributes:
        rate: learning rate after the warmup.
        warmup: tokens of the warmup.
        size: batch size of the trunk, in samples.
        seq_len: tokens of a sample.
        exponent: power of the batch size by which the rate of a fork grows.
    """

    rate: float
    warmup: int
    size: int
    seq_len: int
    exponent: float

    @property
    def step(self) -> int:
        """Tokens of a step."""
        return self.size * self.seq_len


@dataclass(frozen=True)
class BatchFork:
    """One fork: its depth in tokens, its batch size in samples, and its section `schedule`."""

    depth: int
    size: int
    schedule: dict[str, Any]

    @property
    def name(self) -> str:
        """The fork, for people; no other has the same."""
        return f"batch {self.size} from {format_tokens(self.depth)}"


def forks_of(
    trunk: Trunk, depths: Sequence[int], sizes: Sequence[int], tokens: int
) -> list[BatchFork]:
    """The forks of a trunk; depths and lengths are rounded up to whole steps of each batch.

    Raises:
        ConfigError: if a depth is within the warmup, or a fork has too few steps.
    """
    largest = max(sizes) * trunk.seq_len
    if tokens < FEWEST_STEPS * largest:
        raise ConfigError(
            f"critical.tokens = {format_tokens(tokens)}: a batch of {max(sizes)} samples would "
            f"have less than {FEWEST_STEPS} steps; raise it to "
            f"{format_tokens(FEWEST_STEPS * largest)}, or give smaller critical.sizes"
        )
    if min(depths) < trunk.warmup:
        raise ConfigError(
            f"critical.depths: {format_tokens(min(depths))} tokens are within the warmup, which "
            f"ends at {format_tokens(trunk.warmup)}; give greater ones"
        )
    length = -(-tokens // largest) * largest
    placed = sorted({-(-depth // trunk.step) * trunk.step for depth in depths})
    return [
        BatchFork(depth, size, _schedule(trunk, depth, size, depth + length))
        for depth in placed
        for size in sizes
    ]


def _schedule(trunk: Trunk, depth: int, size: int, horizon: int) -> dict[str, Any]:
    rate = trunk.rate * (size / trunk.size) ** trunk.exponent
    lr: list[dict[str, Any]] = [{"from": trunk.rate, "until": depth}, {"from": rate}]
    if trunk.warmup:
        rise = {"shape": "linear", "from": 0, "to": trunk.rate, "until": trunk.warmup}
        lr.insert(0, rise)
    batch = [{"from": trunk.size, "until": depth}, {"from": size}]
    return {"horizon": horizon, "lr": lr, "batch": batch}


def critical_sizes(losses: Sequence[SizeLosses], tolerance: float, base: int) -> CriticalFound:
    """The critical batch size at each depth, and the stairs that follow.

    Args:
        losses: validation losses at each depth and size; None for a fork that diverged.
        tolerance: nats that a batch may lose.
        base: the batch size before the first depth, at most.
    """
    depths = sorted({each.depth for each in losses})
    at = [critical_at([e for e in losses if e.depth == depth], tolerance) for depth in depths]
    sizes = sorted({each.size for each in losses})
    return CriticalFound(
        losses=list(losses), at=at, stairs=stairs_of(at, sizes, base), notes=_notes(at)
    )


def critical_at(losses: Sequence[SizeLosses], tolerance: float) -> CriticalAt:
    """The critical batch size at one depth."""
    ordered = sorted(losses, key=lambda each: each.size)
    seeds = [seed for seed in range(len(ordered[0].losses)) if ordered[0].losses[seed] is not None]
    table = np.array(
        [[_or_infinite(each.losses[seed]) for seed in seeds] for each in ordered], dtype=float
    )
    sizes = [each.size for each in ordered]
    if not seeds:
        return CriticalAt(depth=ordered[0].depth, size=Interval(value=sizes[0]), at_most=True)
    means = table.mean(axis=1)
    best = int(means.argmin())
    value, beyond = _crossing(sizes, means - means[best], best, tolerance)
    each = [
        math.log(_crossing(sizes, table[:, n] - table[best, n], best, tolerance)[0])
        for n in range(len(seeds))
    ]
    noise = pooled_noise([each])
    half = estimate(each, noise).half if noise else None
    low = high = None
    if half is not None:
        low = max(sizes[0], value * math.exp(-half))
        high = min(sizes[-1], value * math.exp(half))
    return CriticalAt(
        depth=ordered[0].depth,
        size=Interval(
            value=significant(value, 3),
            low=low and significant(low, 3),
            high=high and significant(high, 3),
        ),
        at_least=beyond,
        at_most=best == 0 and value == sizes[0],
    )


def _or_infinite(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _crossing(sizes: Sequence[int], excess: Any, best: int, tolerance: float) -> tuple[float, bool]:
    """The size at which the excess passes the tolerance, and whether none of these does."""
    here = best
    while here + 1 < len(sizes) and excess[here + 1] <= tolerance:
        here += 1
    if here + 1 == len(sizes):
        return float(sizes[here]), True
    below, above = max(0.0, float(excess[here])), float(excess[here + 1])
    share = 0.0 if math.isinf(above) else max(0.0, (tolerance - below) / (above - below))
    return float(sizes[here] * (sizes[here + 1] / sizes[here]) ** min(share, 1.0)), False


def stairs_of(at: Sequence[CriticalAt], sizes: Sequence[int], base: int) -> list[Stair]:
    """Batch sizes by tokens: at each depth the largest measured one below the critical size.

    Critical sizes grow with the tokens, so those that fall by noise are evened out. What was
    not measured is not guessed: before the first depth the base's size holds, or a smaller one that
    the first depth asks for, and after the last depth the last one.
    """
    even = [math.exp(each) for each in rising([math.log(each.size.value) for each in at])]
    fitting = [max([size for size in sizes if size <= most * 1.001] or [sizes[0]]) for most in even]
    stairs: list[Stair] = [(0, min(base, fitting[0]))]
    for each, size in zip(at, fitting, strict=True):
        if size != stairs[-1][1]:
            stairs.append((each.depth, size))
    return stairs


def _notes(at: Sequence[CriticalAt]) -> list[str]:
    notes = []
    if any(each.at_least for each in at):
        notes.append(
            "at some depths even the largest batch is below the critical size: give larger "
            "critical.sizes to find it"
        )
    if any(each.at_most for each in at):
        notes.append(
            "at some depths even the smallest batch is above the critical size: give "
            "smaller critical.sizes to find it"
        )
    return notes
