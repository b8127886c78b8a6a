"""How large a training state is: what a checkpoint or a snapshot holds, in bytes."""

from __future__ import annotations

# Bytes of a weight, and of each number that the optimizer keeps of one.
NUMBER = 4


def state_bytes(saved: int, trained: int, kept: int = 2) -> int:
    """Bytes of the training state of all ranks together, each tensor counted once.

    Args:
        saved: number of parameters that are saved.
        trained: number of those that are trained.
        kept: numbers that the optimizer keeps of each trained parameter; of AdamW two moments.
    """
    return NUMBER * (saved + kept * trained)
