"""Which checkpoints of a run are kept: a function of what lies on storage.

Light to import: the driver removes what is left over once its workers have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

from manta.state import checkpoint_files
from manta.state.checkpoint_files import Inventory
from manta.storage.place import Place

# (checkpoints that are whole, oldest first) → the steps of some of them.
Choice = Callable[[Sequence[Inventory]], Set[int]]


def prune(
    folder: Place, keep: int, pinned: Set[int], awaited: Choice, best: Choice | None = None
) -> None:
    """Remove the checkpoints that nothing keeps.

    Args:
        folder: the folder of a run's checkpoints.
        keep: number of the newest ones to keep, beside the other ones.
        pinned: steps whose checkpoints are kept for good, and are not counted.
        awaited: returns the steps of checkpoints that somebody has yet to look at.
        best: returns the step of the best one; by default of the lowest validation loss.
    """
    found = [
        (folder / name, inventory)
        for name, inventory in checkpoint_files.inventories(folder).items()
        if isinstance(inventory, Inventory)
    ]
    there = [inventory for _, inventory in found]
    kept = {*pinned, *awaited(there), *(best or lowest_loss)(there)}
    for path, inventory in [pair for pair in found if pair[1].state.step not in pinned][:-keep]:
        if inventory.state.step not in kept:
            checkpoint_files.discard(path)


def lowest_loss(there: Sequence[Inventory]) -> Set[int]:
    """The step of the checkpoint with the lowest validation loss, if any has one."""
    scored = [
        (one.state.val_loss, one.state.step)
        for one in there
        # Losses of other samples, as an older version took them, can't be compared.
        if one.state.val_loss is not None and one.state.eval_sample == there[-1].state.eval_sample
    ]
    return {min(scored)[1]} if scored else set()
