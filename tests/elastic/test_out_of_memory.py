"""Which errors say that a device has no memory left, and how large its forward passes were."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from manta.elastic.worker.out_of_memory import ForwardPasses, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("NCCL error: unhandled cuda error, Cuda failure 'out of memory'"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("out of resource: shared memory"), False),
        (RuntimeError("DataLoader: out of memory"), False),
    ],
)
def test_it_is_told_by_whichever_library_noticed(error: RuntimeError, out: bool) -> None:
    assert is_out_of_memory(error) == out


def test_forward_passes_are_those_of_the_step_that_is_trained() -> None:
    passes, closed = ForwardPasses(), []

    def batches():
        try:
            yield from (SimpleNamespace(step=SimpleNamespace(batch_size=b)) for b in (8, 20))
        finally:
            closed.append(True)

    assert passes.rows is None
    watched = passes.watching(batches(), rows_of=lambda size: size // 2)
    next(watched)
    assert passes.rows == 4
    next(watched)
    assert passes.rows == 10
    watched.close()
    assert closed
