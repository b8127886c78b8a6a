"""Copying tensors into host memory: at once from a CPU, beside training from a GPU."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from manta.state.tensor_layout import Piece, TensorRows, capture
from manta.state.trained import Trained

log = logging.getLogger(__name__)


class HostCopy:
    """The tensors are in host memory: one copy each, done when `start` returns."""

    seconds = 0.0

    def prepare(self, buffers: Sequence[memoryview]) -> None:
        """Nothing: host memory is written to as it is."""

    def start(
        self, pieces: Sequence[Piece], entries: Sequence[TensorRows], memory: memoryview
    ) -> None:
        """Copy `pieces` to their places in `memory`."""
        capture(pieces, entries, torch.frombuffer(memory, dtype=torch.uint8))

    def done(self) -> bool:
        """Whether everything is copied."""
        return True

    def wait(self) -> None:
        """Wait until everything is copied."""


class DeviceCopy:
    """Copies on a stream of its own; only the next update of the weights waits for it.

    Attributes:
        seconds: how long the last copy took on the device, once it is done.
    """

    def __init__(self, trained: Trained):
        self.seconds = 0.0
        self._device = trained.ranks.device
        self._stream = torch.cuda.Stream(trained.ranks.device)  # type: ignore[no-untyped-call]
        self._began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._running = False
        self._locks = PageLocks(trained.ranks.device)
        # Forward and backward only read what is being copied.
        trained.optimizer.register_step_pre_hook(self._hold_update)

    def prepare(self, buffers: Sequence[memoryview]) -> None:
        """Page-lock these buffers, which take the place of those before. From any thread."""
        self._locks.replace(buffers)

    def start(
        self, pieces: Sequence[Piece], entries: Sequence[TensorRows], memory: memoryview
    ) -> None:
        """Begin to copy `pieces` to their places in `memory`."""
        target = torch.frombuffer(memory, dtype=torch.uint8)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._began.record()
            capture(pieces, entries, target)
            self._ended.record()
        self._running = True

    def done(self) -> bool:
        """Whether everything is copied; asks, does not wait."""
        if self._running and self._ended.query():  # type: ignore[no-untyped-call]
            self._running = False
            self.seconds = self._began.elapsed_time(self._ended) / 1000
        return not self._running

    def wait(self) -> None:
        """Wait until everything is copied."""
        if self._running:
            self._ended.synchronize()

    def _hold_update(self, *_: Any) -> None:
        if self._running:
            torch.cuda.current_stream(self._device).wait_event(self._ended)


class PageLocks:
    """Host memory that CUDA may copy into while the host goes on.

    Memory that isn't page-locked does as well, but the copy holds training for as long as it takes.

    Args:
        device: the device whose context registers the memory.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._locked: list[Tensor] = []

    def replace(self, buffers: Sequence[memoryview]) -> None:
        """Lock these in place of those before; a warning where that can't be."""
        # A thread has a current device of its own, at first 0, and would make a context there.
        with torch.cuda.device(self._device):
            cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            while self._locked:
                self._check(cudart.cudaHostUnregister(self._locked.pop().data_ptr()), "unlocked")
            for buffer in buffers:
                memory = torch.frombuffer(buffer, dtype=torch.uint8)
                status = cudart.cudaHostRegister(memory.data_ptr(), memory.numel(), 0)
                if self._check(status, "page-locked"):
                    self._locked.append(memory)

    def _check(self, status: int, wanted: str) -> bool:
        """Whether a call went well. If not, its error is taken: the next kernel would raise it."""
        if int(status) == 0:
            return True
        log.warning("memory for snapshots can't be %s (CUDA error %d)", wanted, int(status))
        # CUDA keeps the error for whoever asks next, which Torch does when it launches a kernel.
        with suppress(RuntimeError):
            torch.ones(1, device=self._device) + 1
        return False
