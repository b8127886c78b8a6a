"""The memory that is left, on machines and in containers as the kernel describes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manta.cluster.free_memory import free_memory, total_memory

GIB = 2**30


def write(folder: Path, **files: object) -> None:
    """Files whose names have a dot where the keyword has two underscores."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine with 40 GiB free."""
    folder = tmp_path / "proc"
    write(folder, meminfo=f"MemTotal: 64 kB\nMemFree: 1 kB\nMemAvailable:   {40 * 2**20} kB")
    return folder


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def test_a_machine_without_limits(proc: Path, cgroups: Path) -> None:
    assert free_memory(proc, cgroups) == 40 * GIB
    write(proc / "self", cgroup="0::/")
    write(cgroups, memory__max="max", memory__current=5)
    assert free_memory(proc, cgroups) == 40 * GIB
    assert total_memory(proc, cgroups) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_container_has_what_its_limit_leaves(proc: Path, cgroups: Path) -> None:
    write(proc / "self", cgroup="0::/")
    stat = f"anon {4 * GIB}\ninactive_file {2 * GIB}\nactive_file {GIB}\nshmem 7"
    write(cgroups, memory__max=28 * GIB, memory__current=10 * GIB, memory__stat=stat)
    assert free_memory(proc, cgroups) == (28 - 10 + 3) * GIB
    write(cgroups, memory__max=9 * GIB, memory__stat="")
    assert free_memory(proc, cgroups) == 0  # it is beyond a limit that was lowered
    write(cgroups, memory__max=1000)
    assert total_memory(proc, cgroups) == 1000


def test_the_tightest_of_all_groups_counts(proc: Path, cgroups: Path) -> None:
    write(proc / "self", cgroup="0::/pods/one/worker")
    write(cgroups / "pods", memory__max=30 * GIB, memory__current=GIB)
    write(cgroups / "pods/one", memory__max=8 * GIB, memory__current=GIB)
    write(cgroups / "pods/one/worker", memory__max="max", memory__current=GIB)
    assert free_memory(proc, cgroups) == 7 * GIB


def test_a_container_may_see_its_group_as_the_root(proc: Path, cgroups: Path) -> None:
    write(proc / "self", cgroup="0::/system.slice/docker-1234.scope")
    write(cgroups, memory__max=6 * GIB, memory__current=GIB)
    assert free_memory(proc, cgroups) == 5 * GIB


def test_the_first_version_of_control_groups(proc: Path, cgroups: Path) -> None:
    write(proc / "self", cgroup="7:cpu,cpuacct:/a\n4:memory:/a\n1:name=systemd:/a\n0::/a")
    unlimited = {"memory.limit_in_bytes": 2**63 - 4096, "memory.usage_in_bytes": GIB}
    write(cgroups / "memory", **unlimited)
    files = {"memory.limit_in_bytes": 12 * GIB, "memory.usage_in_bytes": 3 * GIB}
    stat = f"inactive_file 9\ntotal_inactive_file {GIB}\ntotal_active_file {GIB}"
    write(cgroups / "memory/a", **files, memory__stat=stat)
    assert free_memory(proc, cgroups) == 11 * GIB


def test_nothing_is_known_where_the_system_does_not_say(tmp_path: Path) -> None:
    assert free_memory(tmp_path / "none", tmp_path / "none") is None


def test_this_machine_has_some() -> None:
    free = free_memory()
    assert free is not None
    assert 0 < free < total_memory()
