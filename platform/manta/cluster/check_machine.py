"""Can this machine run Manta: packages, GPU, memory, disk, limits, and does Ray start?"""

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
# The demo needs the first; a small model's checkpoints need the second.
DISK_FAILED, DISK_WARNING = 2 * GIB, 20 * GIB
MEMORY_FAILED, MEMORY_WARNING = 2 * GIB, 8 * GIB
SHM_WARNING = 2 * GIB
FILES_WARNING = 4096
RAY_SECONDS = 120
# URL scheme → PyArrow's class for its store; not every build of PyArrow has these classes.
STORES = {"s3": "S3FileSystem", "gs": "GcsFileSystem"}

# Torch and Ray are tried in a process of their own, so that nothing they start outlives the check.
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
    """All checks of this machine, the slowest ones last."""
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
        yield warning(
            "packages",
            f"no {NAME} to compare with",
            "run `manta doctor` from the root of the repository",
        )
        return
    pins = read_lock(lock)
    other = differing(pins)
    if not other:
        yield ok("packages", f"all {len(pins)} packages have the versions of {NAME}")
        return
    shown = ", ".join(
        f"{name} is {have or 'missing'} (pinned: {pins[name]})" for name, have in other[:4]
    )
    more = f" and {len(other) - 4} more" if len(other) > 4 else ""
    yield failed(
        "packages",
        f"{len(other)} packages differ from {NAME}: {shown}{more}",
        f"install the pinned versions: {installs(lock)}",
    )


def differing(pins: dict[str, str]) -> list[tuple[str, str | None]]:
    """Packages that aren't installed as pinned, with the version here; None if there is none."""
    here: dict[str, str] = {}
    for found in metadata.distributions():
        name = found.metadata["Name"]
        if name:  # Python imports the first one on its path
            here.setdefault(normal(name), found.version)
    return [
        # A build's local label (+cpu, +cu128) is no part of the pinned version.
        (name, here.get(name))
        for name, pin in pins.items()
        if here.get(name, "").partition("+")[0] != pin
    ]


def _memory() -> Finding:
    total = total_memory()
    found = f"{total / GIB:.1f} GiB"
    if total < MEMORY_FAILED:
        return failed(
            "memory",
            found,
            f"take a machine with {MEMORY_FAILED // GIB} GiB or more: Ray needs as much",
        )
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
        return failed("disk", found, "free some space: checkpoints and Ray's own files need it")
    if min(free.values()) < DISK_WARNING:
        return warning("disk", found, "free some space, or set run.storage to another disk")
    return ok("disk", found)


def _files(limit: int) -> Finding:
    if limit < FILES_WARNING:
        return warning(
            "file limit",
            f"a process may open {limit} files; a node with many workers needs more",
            "raise the limit before you start Manta: ulimit -n 65536",
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
    return ok("URLs", "s3://, gs://, http://; other schemes need their package for fsspec")


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
        return failed("Torch", _last_line(done.stderr), f"install Torch anew as {NAME} pins it")
    version, cuda, count, name = json.loads(done.stdout.splitlines()[-1])
    if count:
        return ok("Torch", f"{version}, {count} GPUs: {name}")
    if shutil.which("nvidia-smi") is None:
        return ok("Torch", f"{version}, no GPU on this machine")
    if cuda is None:
        return failed(
            "Torch",
            f"{version} is the CPU build, on a machine with a GPU",
            "install Torch's CUDA build",
        )
    return failed(
        "Torch",
        f"{version} for CUDA {cuda} finds no GPU, but nvidia-smi is installed",
        "run nvidia-smi: the driver is not loaded, or too old for that CUDA version",
    )


def _ray() -> Finding:
    # Ray puts its sockets below this folder, and a socket's path may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        done = _run(START_RAY, folder)
    if done.returncode:
        return failed(
            "Ray",
            f"does not start: {_last_line(done.stderr)}",
            "check memory, disk and limits above; then run `ray start --head`, which prints more",
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
        return subprocess.CompletedProcess(command, 1, "", f"not done after {RAY_SECONDS} s")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason given"
