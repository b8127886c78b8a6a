"""How a rank's rows of one step are cut into forward passes."""

from __future__ import annotations

from collections.abc import Sequence

from manta.schedule.plateaus import Plateau

# Of the largest forward pass that a run's steps ask for, the share that one size for all has at
# least: many small passes would leave an accelerator idle.
LEAST_SHARE = 0.5


def micro_steps(batch_size: int, world_size: int, micro_batch: int) -> int:
    """Forward passes that every rank makes in a step, so that collectives line up."""
    return -(-_largest_share(batch_size, world_size) // micro_batch)


def largest_slice(batch_size: int, world_size: int, micro_batch: int) -> int:
    """Rows of the largest forward pass of a step, over all ranks."""
    steps = micro_steps(batch_size, world_size, micro_batch)
    return -(-_largest_share(batch_size, world_size) // steps)


def one_size(plateaus: Sequence[Plateau], world_size: int, micro_batch: int) -> int:
    """Rows for every forward pass of a run, where shorter ones are filled with blank rows.

    Of the sizes that the run's steps ask for, small ones aside, the one by which the fewest rows
    are computed in the whole run, blank ones included; of equal ones the largest.
    """
    asked = {largest_slice(plateau.batch, world_size, micro_batch) for plateau in plateaus}
    sizes = [size for size in asked if size >= LEAST_SHARE * max(asked)]

    def computed(size: int) -> int:
        passes = (p.steps * micro_steps(p.batch, world_size, size) for p in plateaus)
        return size * sum(passes)

    return min(sizes, key=lambda size: (computed(size), -size))


def _largest_share(batch_size: int, world_size: int) -> int:
    return -(-batch_size // world_size)


def micro_slices(rows: int, steps: int) -> list[slice]:
    """`rows` over `steps` forward passes, differing by at most one row.

    The last one, which synchronises gradients, is the largest: empty only without rows.
    """
    return [slice(rows * i // steps, rows * (i + 1) // steps) for i in range(steps)]
