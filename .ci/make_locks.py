"""Writes the lock files with uv, a resolver: every package pinned, each of its files by a checksum.

    make lock                       what pyproject.toml allows, today's versions kept where they fit
    make lock ARGS=--upgrade        the newest that it allows
    make lock CPU_TORCH=PLACE       also Torch's builds for CPUs: an index or a folder with them

    requirements.lock       what runs: on nodes, and for `make demo`
    requirements-test.lock  what tests, types and style need on top
    cluster/cuda.lock       what Torch's CUDA build needs on top, which the one for CPUs does not
    cluster/gcp.lock        what the head of a cluster on Google Cloud needs on top

A lock holds for Linux and every Python from 3.11 on. Torch stands in it without its
build, with the checksums of both: which one is installed says the index of the machine. Without
CPU_TORCH, those of the CPU builds are taken over from the lock that is there.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN, TEST = ROOT / "requirements.lock", ROOT / "requirements-test.lock"
CUDA, GCP = ROOT / "cluster/cuda.lock", ROOT / "cluster/gcp.lock"
HEADS = {
    RUN: "What Manta runs on: every package, each of its files by its checksum. Torch is the\n"
    "# build for CPUs or for CUDA, whichever the machine's index offers. cluster/install.py\n"
    "# installs it.",
    TEST: "What tests, types and style need on top of requirements.lock.",
    CUDA: "What Torch's CUDA build needs on top of requirements.lock.",
    GCP: "What the head of a cluster on Google Cloud needs on top of requirements.lock.",
}
# Only Torch's CUDA build asks for these.
FOR_CUDA = re.compile(r"(nvidia-|cuda-|triton$)")
# A package of a lock: its name, its version with marker, its checksums.
PACKAGE = re.compile(r"^([\w.-]+)==([^\n\\]+?) \\\n((?:    --hash=\S+(?: \\)?\n?)+)", re.MULTILINE)
# The oldest Python, which needs what newer ones do and more. Checksums are those of all platforms.
FOR = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")
Packages = dict[str, tuple[str, set[str]]]


def resolved(*arguments: str, known: tuple[Path, ...] = (), needs: str = "") -> Packages:
    """What uv resolves, where it can to the versions of the locks that are known."""
    with tempfile.TemporaryDirectory() as folder:
        out, wanted = Path(folder) / "out.lock", Path(folder) / "needs.in"
        out.write_text("".join(path.read_text() for path in known if path.exists()))
        wanted.write_text(needs)
        command = ["uv", "pip", "compile", *arguments, str(wanted), "--output-file", str(out)]
        command += [*FOR, "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
        subprocess.run(command, check=True, cwd=ROOT)
        return parsed(out.read_text())


def parsed(text: str) -> Packages:
    """The packages of a lock, by name."""
    found = {}
    for name, version, hashes in PACKAGE.findall(text):
        found[name] = (version.strip(), set(re.findall(r"sha256:\w+", hashes)))
    return found


def write(path: Path, packages: Packages) -> None:
    """A lock file."""
    blocks = []
    for name, (version, hashes) in sorted(packages.items()):
        lines = [f"{name}=={version}", *(f"    --hash={one}" for one in sorted(hashes))]
        blocks.append(" \\\n".join(lines))
    path.write_text(f"# {HEADS[path]}\n# Made anew by: make lock\n" + "\n".join(blocks) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(packages)} packages")


def cpu_torch(version: str, place: str | None, before: Packages) -> set[str]:
    """Checksums of Torch's builds for CPUs."""
    if place and Path(place).is_dir():  # of which uv tells no checksums
        wheels = Path(place).glob(f"torch-{version}+cpu-*.whl")
        return {f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}" for wheel in wheels}
    if place:
        needs = f"torch=={version}+cpu"
        return resolved("--no-deps", "--find-links", place, needs=needs)["torch"][1]
    if before.get("torch", ("",))[0] != version:
        sys.exit(f"Torch is {version} now: give CPU_TORCH=PLACE, an index or folder of CPU builds")
    return before["torch"][1]


def main() -> None:
    """Resolve, divide and write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--upgrade", action="store_true", help="take the newest versions")
    options.add_argument("--cpu-torch", help="where Torch's builds for CPUs are")
    given = options.parse_args()
    known = () if given.upgrade else (RUN, TEST, CUDA, GCP)
    extras = ("aws", "adapt", "context", "repair")
    project = ("pyproject.toml", *(word for extra in extras for word in ("--extra", extra)))
    # setuptools builds Manta itself, without a network.
    run = resolved(*project, known=known, needs="setuptools>=77")
    cuda = {name: run.pop(name) for name in list(run) if FOR_CUDA.match(name)}
    version, hashes = run["torch"]
    before = parsed(RUN.read_text())
    run["torch"] = (version, hashes | cpu_torch(version, given.cpu_torch, before))
    write(RUN, run)
    write(CUDA, cuda)
    pinned = ("--constraints", str(RUN))
    test = resolved(*project, "--extra", "dev", *pinned, known=known, needs="setuptools>=77")
    write(TEST, {name: test[name] for name in test.keys() - run.keys() - cuda.keys()})
    gcp = resolved(*pinned, known=known, needs=GCP_NEEDS)
    write(GCP, {name: gcp[name] for name in gcp.keys() - run.keys()})


GCP_NEEDS = "google-api-python-client"

if __name__ == "__main__":
    main()
