"""With what the process of a worker begins. Light to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Ray Train trains in a thread that is not the main one. There glibc gives each large tensor
# back to the kernel when it is freed and faults it in anew, page by page, at the next step:
# a fifth of the throughput of a small model on a CPU (benchmarks/RESULTS.md).
CPU_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


# Ray hides no device from a worker that asked for none, and Torch takes what it sees: ranks
# would train on devices that Ray gives to others, or on one together.
NO_DEVICES = {"CUDA_VISIBLE_DEVICES": ""}


def runtime_env_of(resources: Mapping[str, float]) -> dict[str, Any]:
    """Ray's runtime environment of workers that need `resources` each."""
    threads = str(max(1, int(resources.get("CPU", 1))))
    on_cpu = {} if resources.get("GPU", 0) > 0 else {**CPU_ALLOCATOR, **NO_DEVICES}
    return {"env_vars": {"OMP_NUM_THREADS": threads, **on_cpu}}
