"""A worker's GPU: the one of its slot and no other, and free before anything is allocated.

A worker's process imports before it knows which devices it may see. What is said by
CUDA_VISIBLE_DEVICES then counts only if no import has started CUDA; else all workers of a machine
would see all devices, and trials of a sweep would meet on the first. Here that is found out.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

from manta.config.errors import TrainingError

log = logging.getLogger(__name__)

# A process that is killed gives its device memory back within seconds: tens of GB of it, and as
# much that is page-locked.
FREE_SECONDS = 30.0
LOOK_SECONDS = 0.25
# Of a device's memory, what others may hold of it: a display, contexts.
TAKEN = 0.15


def take_device(index: int, share: float) -> None:
    """Have this process compute on the visible device of that number.

    Args:
        index: among those that the worker was told to see.
        share: of the device that the worker asked for.

    Raises:
        TrainingError: if it is not the device that the worker was told to see.
    """
    torch.cuda.set_device(index)
    visible = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    problem = wrong_device(
        visible,
        index,
        count=torch.cuda.device_count(),
        uuid=str(torch.cuda.get_device_properties(index).uuid),
        uuids=_uuids() if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" else None,
    )
    if problem is not None:
        raise TrainingError(problem)
    if share >= 1:  # else others are on it by right
        reason = wait_until_free(lambda: torch.cuda.mem_get_info(index))
        if reason is not None:
            log.warning("GPU %s of %s: %s", _name(visible, index), os.uname().nodename, reason)


def wrong_device(
    visible: Sequence[str], index: int, *, count: int, uuid: str, uuids: Sequence[str] | None
) -> str | None:
    """What is wrong with the device that a process computes on; None if nothing is known to be.

    Args:
        visible: what CUDA_VISIBLE_DEVICES names; nothing where it is not set.
        index: of the device among these.
        count: devices that CUDA sees.
        uuid: of the device that CUDA takes for that index.
        uuids: of the machine's devices by number, where CUDA is known to count in that order.
    """
    if not visible:
        return None
    if count != len(visible):
        return (
            f"CUDA sees {count} devices where this worker may see {len(visible)} "
            f"({','.join(visible)}): something started CUDA while it was imported. Leave out what "
            "your environment loads into every Python (sitecustomize, .pth files), and say so to "
            "Manta's developers if there is nothing"
        )
    name = visible[index]
    wanted = uuids[int(name)] if uuids and name.isdigit() and int(name) < len(uuids) else name
    if wanted.startswith("GPU-") and not uuid.startswith(wanted.removeprefix("GPU-")):
        return f"this worker was to compute on device {wanted}, and CUDA took GPU-{uuid} for it"
    return None


def wait_until_free(
    look: Callable[[], tuple[int, int]], seconds: float = FREE_SECONDS
) -> str | None:
    """Wait until a device's memory is free: that of the group before may not be yet.

    Args:
        look: bytes that are free, and all.
        seconds: to wait, at most.

    Returns:
        What is wrong if it isn't free by then.
    """
    until = time.monotonic() + seconds
    while True:
        free, total = look()
        if free >= (1 - TAKEN) * total:
            return None
        if time.monotonic() >= until:
            return (
                f"other processes hold {(total - free) / 2**30:.1f} of its "
                f"{total / 2**30:.1f} GiB; training with the rest"
            )
        time.sleep(LOOK_SECONDS)


def _uuids() -> list[str] | None:
    """Those of all devices of the machine, in the order of its bus."""
    with suppress(OSError):  # a machine without NVIDIA's library for management
        return torch.cuda._raw_device_uuid_nvml()
    return None


def _name(visible: Sequence[str], index: int) -> str:
    return visible[index] if visible else str(index)
