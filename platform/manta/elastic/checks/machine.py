"""Refuses a run that this machine can't hold, before Ray is started on it.

Ray counts the machine's resources when it starts, which takes seconds. A look at device files gives
an upper bound at once: a run that asks for more is refused.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping

from manta.config.errors import RunError
from manta.config.run import RunConfig
from manta.elastic.checks.evaluators_data import check_evaluators_fit

NVIDIA = "/dev/nvidia[0-9]*"
# Device files of GPUs that are not counted here: other makers', and NVIDIA's within WSL.
OTHER_GPUS = ("/dev/kfd", "/dev/dxg", "/dev/dri/renderD*", "/dev/accel*")
# If this variable is set, Ray uses the resources that it names instead of counting.
OVERRIDE = "RAY_OVERRIDE_RESOURCES"


def check_machine(config: RunConfig) -> None:
    """Refuse a run that can't start on this machine alone, as far as that is certain.

    Raises:
        RunError: naming what the machine has.
    """
    if OVERRIDE not in os.environ:
        refuse_too_much(config, at_most())
        check_evaluators_fit(config, at_most())


def at_most() -> dict[str, float]:
    """Upper bounds of the CPUs and GPUs that Ray can find here; without an entry if unknown."""
    found = {"CPU": float(os.cpu_count() or 1)}
    if not any(glob.glob(pattern) for pattern in OTHER_GPUS):
        gpus, visible = len(glob.glob(NVIDIA)), os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            gpus = min(gpus, len([device for device in visible.split(",") if device]))
        found["GPU"] = float(gpus)
    return found


def refuse_too_much(config: RunConfig, have: Mapping[str, float]) -> None:
    """Raise RunError if `scaling.min` workers need more of a resource than `have` has."""
    scaling = config.scaling
    for name, amount in scaling.resources_per_worker.items():
        need = amount * scaling.min
        if name in have and need > have[name]:
            raise RunError(
                f"scaling.min = {scaling.min} workers need {need:g} {name}, but this machine has "
                f"{have[name]:g}: lower scaling.min or scaling.resources_per_worker.{name}, or "
                "run on a cluster"
            )
