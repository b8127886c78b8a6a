"""How heavy an installation is: packages of the lock, megabytes on disk, seconds of imports.

    make weight

Imports are timed in fresh processes, the median of five, with files in the page cache.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from manta.cluster.lockfile import read_lock

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = ("manta", "manta.config", "manta.cli", "manta.elastic.command", "manta.train.engine")
HEAVIEST, TURNS, MB = 10, 5, 1e6


def size_of(package: str) -> int:
    """Bytes on disk of an installed package; 0 if it isn't installed."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return 0
    return sum(path.stat().st_size for path in map(_located, files) if path.is_file())


def _located(path: metadata.PackagePath) -> Path:
    return Path(str(path.locate()))


def seconds_of(module: str) -> float:
    """What a fresh Python takes to import a module, beyond its own start."""
    return _median(f"import {module}") - _median("pass")


def _median(code: str) -> float:
    times = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def main() -> None:
    """Print it."""
    sizes = {name: size_of(name) for name in read_lock(ROOT / "requirements.lock")}
    print(f"{len(sizes)} packages run, {sum(sizes.values()) / MB:,.0f} MB on disk; the heaviest:")
    for name in sorted(sizes, key=lambda name: -sizes[name])[:HEAVIEST]:
        print(f"  {name:14} {sizes[name] / MB:7,.0f} MB")
    own = sum(path.stat().st_size for path in (ROOT / "platform/manta").rglob("*.py"))
    print(f"Manta itself: {own / MB:.1f} MB of source")
    for module in IMPORTS:
        print(f"import {module:24} {seconds_of(module):6.2f} s")


if __name__ == "__main__":
    main()
