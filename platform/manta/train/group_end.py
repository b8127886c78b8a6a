"""How a process leaves the group that it trained in, and stays ready for another one."""

from __future__ import annotations

import gc

import torch.distributed as dist
from accelerate.state import AcceleratorState

from manta.train.engine import Engine
from manta.train.loop import Loop


def leave_group(engine: Engine | None = None, loop: Loop | None = None) -> None:
    """Leave the process group: ranks that wait for this one get an error at once.

    A connection closes with the last object that holds its process group. An exception that was
    raised in an exchange must be gone by now, as the frames of its traceback are such holders.

    Args:
        engine: the engine that trained in the group, whose model stays as it is.
        loop: the loop that ran there; it can't be run again.
    """
    ended = None
    if loop is not None:
        ended = loop.abandon()
    if engine is not None:
        engine.leave()
    if dist.is_initialized():
        dist.destroy_process_group()
    # Accelerate caches the number of processes; only this method of its tests clears that.
    AcceleratorState._reset_state(reset_partial_state=True)
    gc.collect()
    if ended is not None:
        ended()
        ended = None
        gc.collect()  # what a thread beside the loop raised holds the process group, too
