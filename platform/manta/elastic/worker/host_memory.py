"""Memory that snapshots and checkpoints take on a node, beside its processes.

Both are the training state: fp32 weights and AdamW's two moments, 12 bytes a parameter that is
trained. docs/operations.md has this as a table; tests measure what it says.
"""

from __future__ import annotations

from dataclasses import dataclass

# Bytes of a parameter's weight, and of the moments of one that is trained.
WEIGHT, MOMENTS = 4, 8
# Snapshots are written in turn, so that one is whole at any time.
BUFFERS = 2


@dataclass(frozen=True)
class HostMemory:
    """Bytes on the node that has most of them.

    Attributes:
        snapshots: as long as there are workers.
        checkpoint: while one is written.
    """

    snapshots: float
    checkpoint: float

    @property
    def most(self) -> float:
        """Both at a time."""
        return self.snapshots + self.checkpoint


def state_bytes(parameters: int, trained: int) -> int:
    """The training state of all ranks together, each tensor once."""
    return WEIGHT * parameters + MOMENTS * trained


def host_memory(
    state: float, workers: int, here: int, *, sharded: bool, snapshots: bool
) -> HostMemory:
    """What a node with `here` of the `workers` needs.

    Args:
        state: bytes of the training state.
        workers: of the group.
        here: those of them that are on the node.
        sharded: whether each has a part of the state; else all have all of it.
        snapshots: whether there are any.
    """
    mine = state * here / workers
    places = 1 if here == workers else 2  # a node also holds those of the one before it
    if not snapshots:
        held = 0.0
    elif sharded:
        held = BUFFERS * places * mine
    else:
        held = BUFFERS * state  # the first rank's, on its node, and once more on the next one
    return HostMemory(held, mine)
