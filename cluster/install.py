"""Installs lock files, exactly, for the Python that runs this: python cluster/install.py LOCK...

A file that isn't one of those that were locked is refused, by its checksum. Which build of Torch it
is, the machine's index says, as it does without a lock. The build for CUDA gets its libraries from
cuda.lock. Needs nothing but pip.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
# A lock has all that its packages need; nothing else is looked up.
EXACTLY = ["--no-deps", "--require-hashes"]
CUDA = Path(__file__).with_name("cuda.lock")
TORCH = re.compile(r"^torch==[^\s\\]+", re.MULTILINE)


def install(locks: list[Path]) -> None:
    """Install what the lock files pin."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*PIP, *EXACTLY]
        for number, lock in enumerate(locks):
            exact = Path(folder) / f"{number}-{lock.name}"
            exact.write_text(TORCH.sub(_build, lock.read_text()))
            command += ["-r", str(exact)]
        if subprocess.run(command).returncode:
            sys.exit(
                f"install.py: not installed: {', '.join(map(str, locks))}; if it is a build of "
                "Torch that the lock doesn't know, `make lock CPU_TORCH=PLACE` takes it up"
            )


def _build(pin: re.Match[str]) -> str:
    """The pin of Torch with the build that pip takes here, such as `torch==2.13.0+cpu`.

    pip prefers files of which an index tells the checksum; those in a folder have none, so that
    with checksums it would pass over a build that lies there.
    """
    asked = [*PIP, "--no-deps", "--dry-run", "--ignore-installed", "--report", "-", pin[0]]
    done = subprocess.run(asked, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"install.py: no {pin[0]} for this Python and platform")
    (found,) = json.loads(done.stdout)["install"]
    return f"torch=={found['metadata']['version']}"


def needs_cuda() -> bool:
    """Whether the Torch that is installed is a build for CUDA, and a lock has its libraries."""
    try:
        needs = metadata.requires("torch") or []
    except metadata.PackageNotFoundError:
        return False
    return any(need.startswith(("nvidia-", "cuda-")) for need in needs)


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:]]
    install(given)
    if any(TORCH.search(lock.read_text()) for lock in given) and needs_cuda():
        install([CUDA])
