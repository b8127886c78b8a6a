"""Folders for Unix sockets, whose paths may have 107 bytes at most."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 107
# Folders to try if the usual one for temporary files has too long a path, or isn't writable.
SHORT = ("/tmp", "/var/tmp", "/dev/shm")


def fits(folder: str | Path, name: str) -> bool:
    """Whether a socket `name` below `folder` can be bound."""
    return len(os.fsencode(os.path.join(folder, name))) <= LONGEST


@contextmanager
def socket_folder(name: str) -> Iterator[Path]:
    """A new folder for the block, in which a socket of that name can be bound.

    Raises:
        OSError: if no such folder can be made.
    """
    folder = _new(name)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new(name: str) -> Path:
    problem: OSError | None = None
    for parent in (tempfile.gettempdir(), *SHORT):
        if not fits(Path(parent) / "manta12345678", name):
            continue
        try:
            return Path(tempfile.mkdtemp(prefix="manta", dir=parent))
        except OSError as error:
            problem = error
    raise problem or OSError(f"no folder is short enough for sockets: {', '.join(SHORT)}")
