"""A disk of a few megabytes that can be filled, where this process may mount one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FILLER = "filler"


class NoMounts(RuntimeError):
    """This process may not mount a file system."""


class SmallDisk:
    """A tmpfs at `folder`, until `remove`.

    Raises:
        NoMounts: saying why.
    """

    def __init__(self, folder: Path, size: str = "16m"):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "manta-test", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            why = getattr(error, "stderr", "") or str(error)
            raise NoMounts(f"a small file system can't be mounted: {why.strip()}") from None

    def fill(self) -> None:
        """Take all the room there is."""
        with (self.folder / FILLER).open("ab", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                while self._room() and _writes(file, size):
                    pass

    def free(self) -> None:
        """Give the room back."""
        (self.folder / FILLER).unlink(missing_ok=True)

    def _room(self) -> int:
        return os.statvfs(self.folder).f_bfree

    def remove(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """A small disk at `folder` for a test, which is skipped where none can be mounted."""
    try:
        found = SmallDisk(folder)
    except NoMounts as error:
        pytest.skip(str(error))
    try:
        yield found
    finally:
        found.remove()


def _writes(file: object, size: int) -> bool:
    try:
        return bool(file.write(bytes(size)))  # type: ignore[attr-defined]
    except OSError:
        return False
