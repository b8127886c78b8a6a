"""One driver for each run directory: a lock that dies with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from manta.config.errors import RunError

LOCK = ".lock"
# A holder touches its lock's file every `BEAT_SECONDS`. Other machines may see that a minute late
# (a network file system caches times) and by another clock.
BEAT_SECONDS = 10.0
QUIET_SECONDS = 180.0


class RunLock:
    """An exclusive hold on a run directory, until `release` or the end of the process."""

    def __init__(self, run_dir: Path) -> None:
        """Take the lock at once or refuse.

        Raises:
            RunError: if another process holds it, or the folder can't be written.
        """
        self._path = run_dir / LOCK
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunError(
                f"{run_dir}: can't be written: {error.strerror}; "
                "set run.storage to a folder that you may write"
            ) from None
        self.exclusive = self._take(run_dir)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _take(self, run_dir: Path) -> bool:
        """True if held; false where the file system knows no locks."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 200, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise RunError(
                f"{run_dir}: another driver is at work on this run ({holder or 'unknown'}); "
                "wait for it or stop it, or choose another run.name"
            ) from None
        except OSError:
            return False
        return True

    @classmethod
    def is_free(cls, run_dir: Path) -> bool:
        """Whether a driver that asked now would get the lock. A folder that isn't there is free."""
        if not run_dir.exists():
            return True
        try:
            cls(run_dir).release()
        except RunError:
            return False
        return True

    def beat(self) -> None:
        """Give a sign of life, for those who can't see the lock."""
        with suppress(OSError):
            os.utime(self._file)

    def release(self) -> None:
        """Let the next driver in. Harmless when called again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def is_held(run_dir: Path) -> bool:
    """Whether a driver is at work on a folder. Nothing in the folder is changed.

    The lock itself tells for drivers on this machine; for others, their last sign of life.
    """
    try:
        file = os.open(run_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        holder = os.pread(file, 200, 0).decode(errors="replace").strip()
        if holder.endswith(f" on {socket.gethostname()}"):
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
            return True
        return time.time() - os.fstat(file).st_mtime < QUIET_SECONDS
    except OSError:  # a file system without locks
        return time.time() - os.fstat(file).st_mtime < QUIET_SECONDS
    finally:
        os.close(file)
