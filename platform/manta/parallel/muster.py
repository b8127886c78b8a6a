"""How the ranks of a group find each other, such that a rank that never comes hangs nobody.

Torch's own rendezvous waits for all ranks in one call, which nothing can end but its time limit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

# What a store raises that can't be reached, or not any more.
GONE = (dist.DistNetworkError, dist.DistStoreError)
# How long one try to reach the first rank's store may take.
TRY = timedelta(seconds=2)
# Seconds between two looks at whether all are there: at least so many, and so many a rank, as all
# ranks ask one store.
LOOK_SECONDS, LOOK_SECONDS_A_RANK = 0.002, 2e-5
# Key of the number of ranks that are there, and the key that is there once all are.
COUNT, ALL = "there", "all"


def muster(rank: int, world_size: int, given_up: Callable[[], bool]) -> Any:
    """Wait until all ranks are there, at MASTER_ADDR and MASTER_PORT of the environment.

    Args:
        rank: number of this rank.
        world_size: number of ranks.
        given_up: whether to wait no longer.

    Returns:
        The store (`torch.distributed.TCPStore`) by which a process group can be made; None if it
        was given up, or if the first rank, whose store it is, is gone.
    """
    store = None
    while store is None:
        if given_up():
            return None
        store = _open(rank == 0)
    try:
        return store if _all_there(store, world_size, given_up) else None
    except GONE:
        return None


def _open(first: bool) -> Any:
    """The first rank's store; None if it can't be reached yet."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        return TCPStore(address, port, is_master=first, timeout=TRY, wait_for_workers=False)
    except GONE:
        if first:
            raise
        return None


def _all_there(store: Any, world_size: int, given_up: Callable[[], bool]) -> bool:
    """Count this rank, and wait until all are counted. Each look is one key, however many ranks."""
    if store.add(COUNT, 1) == world_size:
        store.set(ALL, "")
    # Not by the store's own waiting, which writes a warning of C++ for each time that is over.
    while not store.check([ALL]):
        if given_up():
            return False
        time.sleep(max(LOOK_SECONDS, world_size * LOOK_SECONDS_A_RANK))
    return True
