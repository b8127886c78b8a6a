"""A lock on a file, for a short time: other processes of the machine wait for it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FileLock:
    """A lock that is held until `close`, or until the process ends."""

    def __init__(self, path: Path) -> None:
        """Wait for the lock; the file and its folder are made if they aren't there.

        Raises:
            OSError: if the file can't be opened or locked.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Give the lock up; nothing if called again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
