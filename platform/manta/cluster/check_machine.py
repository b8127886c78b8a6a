"""Is this machine fit to run Manta: packages, GPU, memory, disk, limits, and does Ray start?"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from manta.cluster.findings import Finding, failed, ok, warning
from manta.cluster.free_memory import total_memory
from manta.cluster.lockfile import NAME, installs, normal, read_lock

GIB = 2**30
LEAST_PYTHON = (3, 11)
# What the demo needs, and what a small model's checkpoints do.
DISK_FAILED, DISK_WARNING = 2 * GIB, 20 * GIB
MEMORY_FAILED, MEMORY_WARNING = 2 * GIB, 8 * GIB
SHM_WARNING = 2 * GIB
FILES_WARNING = 4096
RAY_SECONDS = 120
# URL scheme → PyArrow's class for it; not every build of PyArrow has them.
STORES = {"s3": "S3FileSystem", "gs": "GcsFileSystem"}

# Torch and Ray in a process of their own: nothing that they start may outlive the check.
LOOK_AT_TORCH = """
import json, torch
print(json.dumps([torch.__version__, torch.version.cuda, torch.cuda.device_count(),
                  torch.cuda.get_device_name(0) if torch.cuda.device_count() else ""]))
"""
START_RAY = """
import logging, sys, ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
         logging_level=logging.ERROR, _temp_dir=sys.argv[1])
assert ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=60) == 42
ray.shutdown()
"""


def check_machine(lock: Path | None) -> Iterator[Finding]:
    """Everything about this machine, the slowest at the end."""
    yield _python()
    yield from _packages(lock)
    yield _memory()
    yield _shared_memory(shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0)
    yield _disk(Path.cwd())
    yield _files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield _schemes()
    yield _torch()
    yield _ray()


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        return failed("Python", version, "install Python 3.11 or newer")
    return ok("Python", version)


def _packages(lock: Path | None) -> Iterator[Finding]:
    if lock is None:
        yield warning("packages", f"no {NAME} to compare with", "run it from the repository")
        return
    pins = read_lock(lock)
    other = differing(pins)
    if not other:
        yield ok("packages", f"the {len(pins)} of {NAME}")
        return
    shown = ", ".join(f"{name} {have or 'missing'} ({pins[name]})" for name, have in other[:4])
    more = f" and {len(other) - 4} more" if len(other) > 4 else ""
    yield failed(
        "packages",
        f"{len(other)} differ from {NAME}: {shown}{more}",
        installs(lock),
    )


def differing(pins: dict[str, str]) -> list[tuple[str, str | None]]:
    """Packages of another version than pinned, with the one that is here, None for none."""
    here: dict[str, str] = {}
    for found in metadata.distributions():
        name = found.metadata["Name"]
        if name:  # the first on the path is the one that is imported
            here.setdefault(normal(name), found.version)
    return [
        # A build's own mark (+cpu, +cu128) is not a version's.
        (name, here.get(name))
        for name, pin in pins.items()
        if here.get(name, "").partition("+")[0] != pin
    ]


def _memory() -> Finding:
    total = total_memory()
    found = f"{total / GIB:.1f} GiB"
    if total < MEMORY_FAILED:
        return failed("memory", found, f"{MEMORY_FAILED // GIB} GiB is the least that Ray needs")
    if total < MEMORY_WARNING:
        return warning("memory", found, "train small models only, with few workers")
    return ok("memory", found)


def _shared_memory(size: int) -> Finding:
    found = f"/dev/shm has {size / GIB:.1f} GiB"
    if size < SHM_WARNING:
        return warning(
            "shared memory",
            f"{found}: Ray puts its objects on disk, which is slow",
            "start the container with --shm-size=4g or more",
        )
    return ok("shared memory", found)


def _disk(folder: Path) -> Finding:
    places = {"here": folder, "in /tmp": Path(tempfile.gettempdir())}
    free = {name: shutil.disk_usage(place).free for name, place in places.items()}
    found = ", ".join(f"{size / GIB:.1f} GiB free {name}" for name, size in free.items())
    if min(free.values()) < DISK_FAILED:
        return failed("disk", found, "make room: checkpoints and Ray's own files need it")
    if min(free.values()) < DISK_WARNING:
        return warning("disk", found, "make room, or give run.storage another place")
    return ok("disk", found)


def _files(limit: int) -> Finding:
    if limit < FILES_WARNING:
        return warning(
            "file limit",
            f"a process may open {limit} files; a node with many workers needs more",
            "ulimit -n 65536",
        )
    return ok("file limit", f"{limit} open files")


def _schemes() -> Finding:
    missing = [f"{scheme}://" for scheme, name in STORES.items() if not _has_store(name)]
    if missing:
        return failed(
            "URLs",
            f"this build of PyArrow can't open {', '.join(missing)}",
            "install the lock file's PyArrow from its wheel",
        )
    return ok("URLs", "s3://, gs://, http://; others need their package for fsspec")


def _has_store(name: str) -> bool:
    from pyarrow import fs

    try:
        getattr(fs, name)  # a build without it raises ImportError here
    except (AttributeError, ImportError):
        return False
    return True


def _torch() -> Finding:
    done = _run(LOOK_AT_TORCH)
    if done.returncode:
        return failed("Torch", _last_line(done.stderr), "install the lock file's Torch anew")
    version, cuda, count, name = json.loads(done.stdout.splitlines()[-1])
    if count:
        return ok("Torch", f"{version}, {count} GPUs: {name}")
    if shutil.which("nvidia-smi") is None:
        return ok("Torch", f"{version}, no GPU on this machine")
    if cuda is None:
        return failed(
            "Torch",
            f"{version} is the CPU build, on a machine with a GPU",
            "install the CUDA build",
        )
    return failed(
        "Torch",
        f"{version} for CUDA {cuda} sees no GPU, nvidia-smi is there",
        "see what nvidia-smi says: the driver is too old for that CUDA, or not loaded",
    )


def _ray() -> Finding:
    # Sockets lie below it, and their paths may be 107 characters long.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        done = _run(START_RAY, folder)
    if done.returncode:
        return failed(
            "Ray",
            f"does not start: {_last_line(done.stderr)}",
            "see to memory, disk and limits above; then try `ray start --head`, which says more",
        )
    return ok("Ray", f"{metadata.version('ray')} starts and runs a task")


def _run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=RAY_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no end after {RAY_SECONDS} s")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason given"
