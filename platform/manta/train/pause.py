"""Asking a run to leave its loop at a step boundary, the same one on every rank."""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Ray Train's controller imports this too, and not Torch
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
        self._coming: deque[_Coming] = deque()

    def after(self, votes: Tensor) -> Pause:
        """What is agreed on after the step that summed `votes`. Call once a step."""
        self._coming.append(_Coming(votes))
        if len(self._coming) <= self._lag:
            return Pause.NONE
        counts = self._coming.popleft().read()
        return max(kind for kind in Pause if not kind or counts[kind - 1])


class _Coming:
    """Votes on their way to the host.

    The copy is queued at once: one that is asked for later waits in the device's stream for
    all steps that were queued before it, however long the votes have been computed.
    """

    def __init__(self, votes: Tensor):
        self._arrived: torch.cuda.Event | None = None
        self._votes = votes.to("cpu", non_blocking=True)  # of a GPU's: into pinned memory
        if votes.is_cuda:
            import torch

            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> list[int]:
        """The votes; waits for the step that summed them, and for none after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._votes.tolist()
