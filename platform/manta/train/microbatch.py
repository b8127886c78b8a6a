"""How a rank's rows of one step are cut into forward passes."""

from __future__ import annotations


def micro_steps(batch_size: int, world_size: int, micro_batch: int) -> int:
    """Forward passes that every rank makes in a step, so that collectives line up."""
    return -(-_largest_share(batch_size, world_size) // micro_batch)


def largest_slice(batch_size: int, world_size: int, micro_batch: int) -> int:
    """Rows of the largest forward pass of a step, over all ranks."""
    steps = micro_steps(batch_size, world_size, micro_batch)
    return -(-_largest_share(batch_size, world_size) // steps)


def _largest_share(batch_size: int, world_size: int) -> int:
    return -(-batch_size // world_size)


def micro_slices(rows: int, steps: int) -> list[slice]:
    """`rows` over `steps` forward passes, differing by at most one row.

    The last one, which synchronises gradients, is the largest: empty only without rows.
    """
    return [slice(rows * i // steps, rows * (i + 1) // steps) for i in range(steps)]
