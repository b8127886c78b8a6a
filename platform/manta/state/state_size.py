"""How large a training state is: what a checkpoint or a snapshot holds, in bytes."""

from __future__ import annotations

# Bytes of a parameter's weight, and of a trained parameter's two moments.
WEIGHT, MOMENTS = 4, 8


def state_bytes(saved: int, trained: int) -> int:
    """Bytes of the training state of all ranks together, each tensor counted once.

    Args:
        saved: number of parameters that are saved.
        trained: number of those that are trained.
    """
    return WEIGHT * saved + MOMENTS * trained
