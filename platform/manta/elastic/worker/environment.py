"""Environment variables of a worker's process. Light to import."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

from manta.config.scaling import gpus_of

# Ray Train trains in a thread other than the main one. There, glibc returns each large tensor's
# memory to the kernel when it is freed, and the next step page-faults it in again, which costs
# a fifth of a small model's throughput on a CPU (benchmarks/RESULTS.md).
CPU_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


# Forward passes and batch ramps have varying sizes, which would fragment memory of fixed segments.
GPU_ALLOCATOR = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
GPU_ALLOCATOR_NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
# Make Torch ask NVML instead of CUDA whether there are devices: CUDA would be initialised before
# this process knows which devices it may see.
NO_EARLY_CUDA = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
# Linux's ioctl request for an interface's address.
SIOCGIFADDR = 0x8915
# Ray hides no device from a worker that asked for none, and Torch uses what it sees: ranks would
# train on devices that Ray assigned to others, or all on one.
NO_DEVICES = {"CUDA_VISIBLE_DEVICES": ""}


def runtime_env_of(resources: Mapping[str, float]) -> dict[str, Any]:
    """Ray's runtime environment of workers that need `resources` each."""
    threads = str(max(1, int(resources.get("CPU", 1))))
    if gpus_of(resources):
        chosen = any(name in os.environ for name in GPU_ALLOCATOR_NAMES)
        own = NO_EARLY_CUDA if chosen else {**NO_EARLY_CUDA, **GPU_ALLOCATOR}
    else:
        own = {**CPU_ALLOCATOR, **NO_DEVICES}
    return {"env_vars": {"OMP_NUM_THREADS": threads, **own}}


def socket_names(address: str) -> dict[str, str]:
    """Variables that name the network interface of GPU workers, unless the user set them.

    By default, Gloo uses the interface of the host's name, which on Debian is 127.0.1.1, and NCCL
    may use a container bridge.
    """
    name = interface_of(address)
    if name is None or name == "lo":
        return {}
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {key: name for key in names if key not in os.environ}


def interface_of(address: str) -> str | None:
    """The network interface with an IPv4 address; None if this machine has none with it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, request)
            except OSError:  # the interface has no address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
