"""Injects the faults that a config names by rank and step, to test that a run survives them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manta.config.run import Fault
from manta.storage.place import Place

# Seconds between two checks of a held worker for its file.
HOLD_LOOKS = 0.05


class Faults:
    """The faults of one rank in one attempt.

    Args:
        planned: all faults of the config.
        rank: this worker's rank.
        attempt: number of the worker's group.
        folder: the run's folder, with the files that held workers wait for.
    """

    def __init__(self, planned: Sequence[Fault], rank: int, attempt: int, folder: Place):
        self._mine = [f for f in planned if f.rank in (rank, None) and f.attempt in (attempt, None)]
        self._spoils = False
        self._folder = folder

    def spoil(self, model: nn.Module) -> None:
        """Make the model's loss NaN in steps with a fault of kind `nan`."""
        if any(fault.kind == "nan" for fault in self._mine):
            model.register_forward_hook(self._spoiled)

    def _spoiled(self, model: nn.Module, args: Any, loss: Tensor) -> Tensor:
        return loss * float("nan") if self._spoils and loss.requires_grad else loss

    def at(self, point: str, step: int) -> None:
        """Inject the fault that is due at this point of the loop, if there is one.

        Args:
            point: `start`, `step`, `checkpoint`, `snapshot` or `evaluation`, as in the config.
            step: number of the step that is about to be trained, or of the one that is
                being saved or evaluated.
        """
        due = [f for f in self._mine if f.at == point and _reached(f, step)]
        if point == "step":
            self._spoils = any(fault.kind == "nan" for fault in due)
        for fault in due:
            if fault.kind == "hold":
                self._wait_for(fault)
            elif fault.kind != "nan":
                _do(fault, f"{fault.kind} at {point} {step}")

    def _wait_for(self, fault: Fault) -> None:
        """Wait for the file of a hold; returns at once if it exists."""
        assert fault.until is not None  # the config checks that
        here = Path(fault.until)
        awaited = here if here.is_absolute() else self._folder / fault.until
        while not awaited.exists():
            time.sleep(HOLD_LOOKS)


def _reached(fault: Fault, step: int) -> bool:
    """Whether a fault at this point is due at `step`.

    A snapshot is taken later than planned if the one before is still being copied.
    """
    if fault.at == "snapshot" and fault.step is not None:
        return step >= fault.step
    return fault.step in (step, None)


def _do(fault: Fault, what: str) -> None:
    if fault.kind == "slow":
        time.sleep(fault.seconds)
        return
    print(f"fault: {what}", flush=True)
    if fault.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.kind == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault.kind == "out_of_memory":
        raise torch.OutOfMemoryError("on purpose, by faults in the config")
    else:
        raise RuntimeError("an error on purpose, by faults in the config")
