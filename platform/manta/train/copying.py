"""Copying tensors into host memory: at once from a CPU, beside training from a GPU."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manta.train.engine import Engine
from manta.train.layout import Entry, Piece, capture

log = logging.getLogger(__name__)


class HostCopy:
    """The tensors are in host memory: one copy each, done when `start` returns."""

    seconds = 0.0

    def start(self, pieces: Sequence[Piece], entries: Sequence[Entry], memory: memoryview) -> None:
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

    def __init__(self, engine: Engine):
        self.seconds = 0.0
        self._device = engine.device
        self._stream = torch.cuda.Stream(engine.device)  # type: ignore[no-untyped-call]
        self._began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._running = False
        self._pinned: dict[int, Tensor] = {}
        # Forward and backward only read what is being copied.
        engine.raw_optimizer.register_step_pre_hook(self._hold_update)

    def start(self, pieces: Sequence[Piece], entries: Sequence[Entry], memory: memoryview) -> None:
        """Begin to copy `pieces` to their places in `memory`."""
        target = torch.frombuffer(memory, dtype=torch.uint8)
        self._pin(target)
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

    def _pin(self, target: Tensor) -> None:
        """Page-lock the memory, once for each buffer; unlocked memory works too, but slower."""
        if target.data_ptr() in self._pinned:
            return
        cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if len(self._pinned) >= 2:  # buffers are two: this one has taken the place of the oldest
            cudart.cudaHostUnregister(self._pinned.pop(next(iter(self._pinned))).data_ptr())
        status = cudart.cudaHostRegister(target.data_ptr(), target.numel(), 0)
        if int(status) != 0:
            log.warning("the memory for snapshots can't be page-locked (%s)", status)
        self._pinned[target.data_ptr()] = target
