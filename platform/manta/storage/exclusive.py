"""Keep each run or sweep to one driver at a time, and give that driver a folder to work in.

A lock keeps out other processes of this node, and ends with its process. For a run or sweep in a
store, a lease keeps out other nodes as well, and the folder's files are copied from the store.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from manta.config.errors import RunError
from manta.storage.lease import Lease, refuse_if_held
from manta.storage.place import Place
from manta.storage.store import StorePath, reason
from manta.storage.working import pull, tidy, working_folder

LOCK = ".lock"
# A holder touches its lock file every `BEAT_SECONDS`. After `QUIET_SECONDS` other machines take it
# for dead: they may see the time a minute late (a network file system caches it), and their clocks
# may differ.
BEAT_SECONDS = 10.0
QUIET_SECONDS = 180.0


class RunLock:
    """An exclusive hold on a run directory, until `release` or the end of the process."""

    def __init__(self, run_dir: Path) -> None:
        """Take the lock at once, or raise.

        Raises:
            RunError: if another process holds it, or the folder isn't writable.
        """
        self._path = run_dir / LOCK
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunError(
                f"{run_dir} isn't writable: {error.strerror}; set run.storage to a folder that you "
                "may write to"
            ) from None
        self.exclusive = self._take(run_dir)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _take(self, run_dir: Path) -> bool:
        """Whether the lock was taken; False on a file system without locks."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 200, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise RunError(
                f"{run_dir}: another driver is at work on this run ({holder or 'unknown'}); wait "
                "until it ends, stop it, or choose another run.name"
            ) from None
        except OSError:
            return False
        return True

    @classmethod
    def is_free(cls, run_dir: Path) -> bool:
        """Whether the lock could be taken now; a folder that doesn't exist is free."""
        if not run_dir.exists():
            return True
        try:
            cls(run_dir).release()
        except RunError:
            return False
        return True

    def beat(self) -> None:
        """Touch the lock file: a sign of life for other machines, where the lock isn't visible."""
        with suppress(OSError):
            os.utime(self._file)

    def release(self) -> None:
        """Release the lock; nothing if called again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def is_held(run_dir: Path) -> bool:
    """Whether a driver is at work on a folder; nothing in the folder is changed.

    A driver on this machine is found by the lock itself, others by their last sign of life.
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
    except OSError:  # on a file system without locks
        return time.time() - os.fstat(file).st_mtime < QUIET_SECONDS
    finally:
        os.close(file)


class RunHold:
    """An exclusive hold on a place, until `release` or the end of the process.

    Attributes:
        place: the storage that is held.
        folder: this driver's working folder: `place` itself, or a folder of this node.
    """

    def __init__(self, place: Place) -> None:
        """Take the hold at once, or raise.

        Raises:
            RunError: if another driver has it, or the place can't be used.
        """
        self.place = place
        self.folder: Path = working_folder(place)
        self._lease: Lease | None = None
        if isinstance(place, StorePath):
            _tidy_once()
            _make(self.folder)
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None
        self._lock = RunLock(self.folder)
        try:
            if isinstance(place, StorePath):
                self._lease = Lease(place)
                pull(place, self.folder)
        except OSError as error:
            self.release()
            raise RunError(f"{place}: can't be read: {reason(error)}") from None
        except BaseException:
            self.release()
            raise
        self._beating = threading.Thread(target=self._beat, name="manta-beat", daemon=True)
        self._beating.start()

    def _beat(self) -> None:
        """Give signs of life in a thread, as the driver may wait for long."""
        while not self._ended.wait(BEAT_SECONDS):
            self._lock.beat()

    @property
    def exclusive(self) -> bool:
        """Whether a second driver is kept out; False on a file system without locks."""
        return self._lock.exclusive or self._lease is not None

    def check(self) -> None:
        """Raise if the hold was lost.

        Raises:
            RunError: naming the process that has it now.
        """
        if self._lease is not None:
            self._lease.check()

    def release(self) -> None:
        """Release the hold; nothing if called again."""
        self._ended.set()
        if self._beating is not None:
            self._beating.join()
        if self._lease is not None:
            self._lease.release()
        self._lock.release()


def pull_trials(place: Place) -> None:
    """Copy the records of a sweep's trials from the store to this node.

    Records that a leg of a killed driver still works on are left to the leg that follows it.

    Raises:
        RunError: if the store can't be read.
    """
    if not isinstance(place, StorePath):
        return
    try:
        for name in place.folders():
            _pull_if_free(place / name)
    except OSError as error:
        raise RunError(f"{place}: can't be read: {reason(error)}") from None


def _pull_if_free(place: StorePath) -> None:
    folder = working_folder(place)
    _make(folder)
    try:
        lock = RunLock(folder)
    except RunError:
        return
    try:
        pull(place, folder)
    finally:
        lock.release()


def is_free(place: Place) -> bool:
    """Whether a hold could be taken now; a place that doesn't exist is free."""
    if not RunLock.is_free(working_folder(place)):
        return False
    if isinstance(place, StorePath):
        try:
            refuse_if_held(place)
        except RunError:
            return False
    return True


def lives(place: Place) -> bool:
    """Whether a driver is at work on a run or sweep, by its files; works on any machine.

    If the store can't be asked, the driver is taken to be alive: without an answer it can't be
    said to be lost.
    """
    if is_held(working_folder(place)):
        return True
    if not isinstance(place, StorePath):
        return False
    try:
        refuse_if_held(place)
    except (RunError, OSError):
        return True
    return False


@cache
def _tidy_once() -> None:
    """Tidy once in this process, as a sweep's driver takes many holds."""
    tidy()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{folder}: can't be made: {error.strerror}; set MANTA_CACHE to a folder of this node "
            "that you may write to"
        ) from None
