"""How a rank's rows of one step are cut into forward passes."""

from __future__ import annotations


def micro_steps(batch_size: int, world_size: int, micro_batch: int) -> int:
    """Forward passes that every rank makes in a step, so that collectives line up."""
    largest_share = -(-batch_size // world_size)
    return -(-largest_share // micro_batch)


def micro_slices(rows: int, steps: int) -> list[slice]:
    """`rows` over `steps` forward passes, differing by at most one row.

    The last one, which synchronises gradients, is the largest: empty only without rows.
    """
    return [slice(rows * i // steps, rows * (i + 1) // steps) for i in range(steps)]
