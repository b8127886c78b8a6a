"""Asking a run to leave its loop at a step boundary, the same one on every rank."""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Ray Train's controller imports this too, and not Torch
    import torch
    from torch import Tensor

    from manta.train.arriving import Arriving


class Pause(IntEnum):
    """What is asked for; where ranks differ, the highest counts.

    REGROUP: another worker group goes on at once, so a snapshot in memory is enough.
    LEAVE: the same, but a node is about to go: make a durable checkpoint as well.
    STOP: nobody goes on: make a durable checkpoint.
    """

    NONE = 0
    REGROUP = 1
    LEAVE = 2
    STOP = 3


class PauseSwitch:
    """Where another thread asks this rank for a pause."""

    def __init__(self) -> None:
        self._wanted = Pause.NONE

    def ask(self, pause: Pause) -> None:
        """Ask; a request stands until the loop ends, and may only become more urgent."""
        self._wanted = max(self._wanted, pause)

    def votes(self) -> list[int]:
        """The request as votes, one place a kind, to be summed over ranks."""
        return [int(self._wanted == kind) for kind in list(Pause)[1:]]


class Agreement:
    """Reads the summed votes of each step so that every rank acts on the same ones.

    On a CPU they are there at once. On an accelerator they are copied to the host behind the step
    that summed them, and read a few steps later, so that the host stays ahead of the device.
    """

    LAG = 2

    def __init__(self, device: torch.device):
        self._lag = 0 if device.type == "cpu" else self.LAG
        self._coming: deque[Arriving] = deque()

    def after(self, votes: Tensor) -> Pause:
        """What is agreed on after the step that summed `votes`. Call once a step."""
        from manta.train.arriving import Arriving

        self._coming.append(Arriving(votes))
        if len(self._coming) <= self._lag:
            return Pause.NONE
        counts = self._coming.popleft().read()
        return max(kind for kind in Pause if not kind or counts[kind - 1])
