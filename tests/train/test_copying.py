"""Page-locked memory, with a driver that can refuse."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from manta.state.copying import PageLocks

OUT_OF_MEMORY, ALREADY_REGISTERED, NOT_REGISTERED = 2, 712, 713


class Driver:
    """As much of CUDA as locks memory; like it, it keeps an error until somebody asks for it."""

    def __init__(self) -> None:
        self.locked: set[int] = set()
        self.refuses: int | None = None
        self.error = 0

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        if self.refuses == address:
            return self._failed(OUT_OF_MEMORY)
        if address in self.locked:
            return self._failed(ALREADY_REGISTERED)
        self.locked.add(address)
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        if address not in self.locked:
            return self._failed(NOT_REGISTERED)
        self.locked.remove(address)
        return 0

    def _failed(self, error: int) -> int:
        self.error = error
        return error

    def launch(self) -> None:
        """What Torch asks after it launched a kernel."""
        error, self.error = self.error, 0
        if error:
            raise RuntimeError(f"CUDA error: {error}")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    found, ones = Driver(), torch.ones

    def launched(*args, **kwargs):
        found.launch()
        return ones(*args, **kwargs)

    monkeypatch.setattr(torch.cuda, "cudart", lambda: found)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch, "ones", launched)
    return found


def address(buffer: memoryview) -> int:
    return torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()


def some(count: int) -> list[memoryview]:
    return [memoryview(bytearray(64)) for _ in range(count)]


def test_buffers_take_the_place_of_those_before(driver: Driver) -> None:
    locks = PageLocks(torch.device("cpu"))
    for buffers in (some(2), some(2), some(1)):
        locks.replace(buffers)
        assert driver.locked == set(map(address, buffers))
    assert driver.error == 0


def test_memory_that_cannot_be_locked_does_not_fail_the_next_kernel(driver: Driver, caplog) -> None:
    locks = PageLocks(torch.device("cpu"))
    first, second = buffers = some(2)
    driver.refuses = address(first)
    locks.replace(buffers)
    assert "page-locked (CUDA error 2)" in caplog.text
    driver.launch()
    assert driver.locked == {address(second)}
    locks.replace([])
    assert driver.locked == set(), "what was not locked is not unlocked either"
    assert "713" not in caplog.text


def test_nor_does_memory_that_cannot_be_unlocked(driver: Driver, caplog) -> None:
    locks = PageLocks(torch.device("cpu"))
    locks.replace(some(1))
    driver.locked.clear()
    locks.replace([])
    assert "unlocked (CUDA error 713)" in caplog.text
    driver.launch()
