"""Makes sure that a worker uses its slot's GPU, and that the GPU is free.

A worker's process imports before it knows which devices it may see. CUDA_VISIBLE_DEVICES is then
obeyed only if no import has initialised CUDA; otherwise all workers of a machine would see all
devices, and trials of a sweep would all use the first. This module detects that.
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

# Seconds to wait for a device's memory: a killed process frees tens of GB of device memory, and as
# much page-locked memory, within seconds.
FREE_SECONDS = 30.0
LOOK_SECONDS = 0.25
# Share of a device's memory that other processes may hold: a display, CUDA contexts.
TAKEN = 0.15


def take_device(index: int, share: float) -> None:
    """Make this process compute on a visible device.

    Args:
        index: index among the devices that the worker may see.
        share: the share of the device that the worker asked for, 0 to 1.

    Raises:
        TrainingError: if CUDA would use another device than the worker's.
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
    if share >= 1:  # with a smaller share, other workers may use it, too
        reason = wait_until_free(lambda: torch.cuda.mem_get_info(index))
        if reason is not None:
            log.warning("GPU %s of %s: %s", _name(visible, index), os.uname().nodename, reason)


def wrong_device(
    visible: Sequence[str], index: int, *, count: int, uuid: str, uuids: Sequence[str] | None
) -> str | None:
    """Why a process would compute on the wrong device; None if no reason is known.

    Args:
        visible: the entries of CUDA_VISIBLE_DEVICES; empty if it is not set.
        index: index of the worker's device among `visible`.
        count: number of devices that CUDA sees.
        uuid: UUID of the device that CUDA has at `index`.
        uuids: UUIDs of all devices of the machine in CUDA's order; None if that is unknown.
    """
    if not visible:
        return None
    if count != len(visible):
        return (
            f"CUDA sees {count} devices where this worker may see {len(visible)} "
            f"({','.join(visible)}): an import initialised CUDA. Remove what your environment "
            "loads into every Python (sitecustomize, .pth files); if there is nothing, report a "
            "bug in Manta"
        )
    name = visible[index]
    wanted = uuids[int(name)] if uuids and name.isdigit() and int(name) < len(uuids) else name
    if wanted.startswith("GPU-") and not uuid.startswith(wanted.removeprefix("GPU-")):
        return f"this worker should compute on device {wanted}, but CUDA chose GPU-{uuid}"
    return None


def wait_until_free(
    look: Callable[[], tuple[int, int]], seconds: float = FREE_SECONDS
) -> str | None:
    """Wait until a device's memory is free: the previous group's may not be freed yet.

    Args:
        look: returns the device's free and total memory, in bytes.
        seconds: most seconds to wait.

    Returns:
        A message if the memory isn't free by then; else None.
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
    """UUIDs of all devices of the machine, in PCI bus order; None if unknown."""
    with suppress(OSError):  # a machine without NVIDIA's management library (NVML)
        return torch.cuda._raw_device_uuid_nvml()
    return None


def _name(visible: Sequence[str], index: int) -> str:
    return visible[index] if visible else str(index)
