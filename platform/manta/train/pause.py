"""Asking a run to leave its loop at a step boundary, the same one on every rank."""

from __future__ import annotations

from collections import deque
from enum import IntEnum

import torch
from torch import Tensor


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

    def wanted(self) -> Tensor:
        """The request as votes, int64 (3,), to be summed over ranks with other counts."""
        votes = torch.zeros(len(Pause) - 1, dtype=torch.int64)
        if self._wanted:
            votes[self._wanted - 1] = 1
        return votes


class Agreement:
    """Reads the summed votes of each step so that every rank acts on the same ones.

    On a CPU they are there at once. On an accelerator reading would make the host wait
    for the device, so votes are read a few steps late, when they have long been computed.
    """

    LAG = 2

    def __init__(self, device: torch.device):
        self._lag = 0 if device.type == "cpu" else self.LAG
        self._coming: deque[Tensor] = deque()

    def after(self, votes: Tensor) -> Pause:
        """What is agreed on after the step that summed `votes`. Call once a step."""
        self._coming.append(votes)
        if len(self._coming) <= self._lag:
            return Pause.NONE
        agreed = torch.nonzero(self._coming.popleft())
        return Pause(int(agreed[-1]) + 1) if len(agreed) else Pause.NONE
