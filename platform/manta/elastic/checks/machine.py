"""What this machine can't give a run, known before Ray is started on it.

Ray counts what there is when it starts, which takes seconds. Looking at files tells the most that
it may find: what asks for more than that is refused at once.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping

from manta.config.errors import RunError
from manta.config.run import RunConfig

NVIDIA = "/dev/nvidia[0-9]*"
# Devices of other makers, and of NVIDIA's within WSL, which are not counted here.
OTHER_GPUS = ("/dev/kfd", "/dev/dxg", "/dev/dri/renderD*", "/dev/accel*")
# With it Ray takes what it is told for what there is.
OVERRIDE = "RAY_OVERRIDE_RESOURCES"


def check_machine(config: RunConfig) -> None:
    """Refuse a run that can't start on this machine alone, as far as that is certain.

    Raises:
        RunError: saying what the machine has.
    """
    if OVERRIDE not in os.environ:
        refuse_too_much(config, at_most())


def at_most() -> dict[str, float]:
    """The most of CPUs and GPUs that Ray may find on this machine; nothing where that is open."""
    found = {"CPU": float(os.cpu_count() or 1)}
    if not any(glob.glob(pattern) for pattern in OTHER_GPUS):
        gpus, visible = len(glob.glob(NVIDIA)), os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            gpus = min(gpus, len([device for device in visible.split(",") if device]))
        found["GPU"] = float(gpus)
    return found


def refuse_too_much(config: RunConfig, have: Mapping[str, float]) -> None:
    """Raise RunError if the fewest workers need more of a resource in `have` than there is."""
    scaling = config.scaling
    for name, amount in scaling.resources_per_worker.items():
        need = amount * scaling.min
        if name in have and need > have[name]:
            raise RunError(
                f"scaling.min = {scaling.min} workers need {need:g} {name}, but this machine has "
                f"{have[name]:g}: lower scaling.min or scaling.resources_per_worker.{name}, or "
                "run on a cluster"
            )
