"""Memory that a process of this machine may take: the machine's, within its container's limit.

In a container the machine's own figures are those of all containers together. The kernel kills a
process that exceeds the container's limit, without a warning: code that allocates much memory has
to ask here first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Files of each version of control groups: limit and use; then the names in memory.stat of the
# file cache, which counts as use and which the kernel frees by itself.
Names = tuple[str, str, tuple[str, ...]]
V2: Names = ("memory.max", "memory.current", ("inactive_file", "active_file"))
V1: Names = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)


def free_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes that a process may still allocate; None where the system does not tell."""
    sizes = _lines(proc / "meminfo")
    found = [_number(sizes["MemAvailable:"]) * 1024] if "MemAvailable:" in sizes else []
    found += [left for group, version in _groups(proc, cgroups) for left in _left(group, *version)]
    return max(0, min(found)) if found else None


def total_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that all processes of this container, or of this machine, may use together."""
    limits = [_limit(group / names[0]) for group, names in _groups(proc, cgroups)]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit in limits if limit is not None)])


def _groups(proc: Path, cgroups: Path) -> Iterator[tuple[Path, Names]]:
    """The control groups of this process that may limit its memory, and the names of their files.

    In a container the own group may be mounted as the root, though its path is the machine's.
    """
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        parts = PurePosixPath(path.lstrip("/")).parts
        if not controllers:
            root, names = cgroups, V2
        elif "memory" in controllers.split(","):
            root, names = cgroups / "memory", V1
        else:
            continue
        for depth in range(len(parts) + 1):
            yield root.joinpath(*parts[:depth]), names


def _left(group: Path, limit: str, used: str, caches: tuple[str, ...]) -> Iterator[int]:
    """Bytes that are left of a control group's limit, if it has one; caches count as free."""
    most, now = _limit(group / limit), _limit(group / used)
    if most is not None and now is not None:
        sizes = _lines(group / "memory.stat")
        yield most - now + sum(_number(sizes[name]) for name in caches if name in sizes)


def _limit(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None  # "max", or no such file


def _lines(file: Path) -> dict[str, str]:
    """The lines of a file of sizes: name and value."""
    words = (line.split() for line in _text(file).splitlines())
    return {found[0]: found[1] for found in words if len(found) > 1}


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
