"""Provenance of a run: commit of the code, versions of packages, and the machine."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "manta-train",
    "torch",
    "ray",
    "accelerate",
    "transformers",
    "tokenizers",
    "safetensors",
    "pyarrow",
    "numpy",
    "pydantic",
    "wandb",
)
GIT_SECONDS = 5.0
# File with the commit of code that was sent without its .git folder, as by `manta submit`.
SENT_ALONG = ".manta-source.json"


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and dirty flag of the git checkout around `folder`; None without one.

    Files that git does not track don't count as dirty: data and outputs often lie
    beside the code.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return _sent_along(folder)
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _sent_along(folder: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((folder / SENT_ALONG).read_text())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            stdin=subprocess.DEVNULL,
            # Reading must neither wait for git's index lock nor take it from another process.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that training runs on."""
    versions = {"python": platform.python_version()}
    found = {package: _version(package) for package in PACKAGES}
    return versions | {package: version for package, version in found.items() if version}


@cache
def _version(package: str) -> str | None:
    """A package's version, which takes milliseconds to find; None if it isn't installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def driver_hardware() -> dict[str, Any]:
    """The machine of this process: host, CPUs, their model, memory in bytes."""
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpu_count": _cpu_count(),
        "cpu_model": cpu_model(),
        "memory_bytes": _memory_bytes(),
    }


def _cpu_count() -> int | None:
    """CPUs that this process may use; in a container, fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def cpu_model() -> str | None:
    """The name of this machine's processor; None if it is unknown."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
