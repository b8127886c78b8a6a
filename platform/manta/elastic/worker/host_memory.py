"""Computes the memory that snapshots and checkpoints take on a node, beside its processes.

Both are the training state: fp32 weights and what the optimizer keeps of each that is trained, of
AdamW two moments, 12 bytes a parameter in all. docs/operations.md has this as a table; tests
measure what it says.
"""

from __future__ import annotations

from dataclasses import dataclass

# Number of buffers: snapshots alternate between them, so that one is always complete.
BUFFERS = 2


@dataclass(frozen=True)
class HostMemory:
    """Bytes on the node that needs the most.

    Attributes:
        snapshots: bytes of snapshots, held as long as there are workers.
        checkpoint: bytes of a checkpoint, held while it is written.
    """

    snapshots: float
    checkpoint: float

    @property
    def most(self) -> float:
        """The bytes of both together."""
        return self.snapshots + self.checkpoint


def host_memory(
    state: float, workers: int, here: int, *, shards: int | None, snapshots: bool
) -> HostMemory:
    """The memory that a node with `here` of the `workers` needs.

    Args:
        state: bytes of the training state.
        workers: number of workers in the group.
        here: number of workers on the node.
        shards: number of workers that share one copy of the state; None: each has all of it.
        snapshots: whether snapshots are taken.
    """
    mine = state * here / workers
    copies = 1 if here == workers else 2  # a node also holds the previous node's snapshots
    if not snapshots:
        held = 0.0
    elif shards is not None:
        held = BUFFERS * copies * state * min(here, shards) / shards  # of the first copy
    else:
        held = BUFFERS * state  # only rank 0 writes: on its node, and a copy on the next
    return HostMemory(held, mine)
