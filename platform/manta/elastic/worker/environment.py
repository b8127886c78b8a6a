"""With what the process of a worker begins. Light to import."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

from manta.config.run import gpus_of

# Ray Train trains in a thread that is not the main one. There glibc gives each large tensor
# back to the kernel when it is freed and faults it in anew, page by page, at the next step:
# a fifth of the throughput of a small model on a CPU (benchmarks/RESULTS.md).
CPU_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


# Slices of a step, and the rows of a ramp, differ in size: in fixed segments the memory between
# them is lost to fragmentation.
GPU_ALLOCATOR = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
GPU_ALLOCATOR_NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
# Torch asks the driver's library for management whether there are devices, and not CUDA, which
# would start in this process before it knows which of them it may see.
NO_EARLY_CUDA = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
# Linux' request for the address of an interface.
SIOCGIFADDR = 0x8915
# Ray hides no device from a worker that asked for none, and Torch takes what it sees: ranks
# would train on devices that Ray gives to others, or on one together.
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
    """Where GPU workers meet: the interface of their node's address, unless the user chose.

    Gloo takes that of the host's name, which on Debian is 127.0.1.1, and NCCL may take a
    container bridge.
    """
    name = interface_of(address)
    if name is None or name == "lo":
        return {}
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {key: name for key in names if key not in os.environ}


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address, if this machine has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, request)
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
