"""Files of stores kept on this node: each fetched once, shared by all processes, within a bound.

``MANTA_CACHE`` (else ``~/.cache/manta``) says where, ``MANTA_CACHE_BYTES`` how much, such as
``200G``. A file lies under a key that stands for its content, so that it is never out of date.
Whoever uses one holds a shared lock on it; when the bound is reached, those that were not used
for longest and that nobody holds are removed. What is in use may exceed the bound: then there is
a warning, as more room is the only remedy. Locks are flock's: they end with their process.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from manta.config.errors import ConfigError

log = logging.getLogger(__name__)
FOLDER = "MANTA_CACHE"
BYTES = "MANTA_CACHE_BYTES"
# Of what is free or the cache's already: the rest is for others.
DEFAULT_SHARE = 0.5
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
PARTIAL = ".partial"
LOCKS = 256


def node_folder() -> Path:
    """The folder of this node for what can be had again; `MANTA_CACHE` moves it."""
    return Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "manta")


class Held:
    """A file that stays while this is held: until `release`, or nobody has this any more."""

    def __init__(self, path: Path, file: int = -1):
        self.path, self._file = path, file

    def release(self) -> None:
        """Let it be removed when room is needed. Harmless when called again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    __del__ = release


class Cache:
    """The node's cache. Any number of processes may use it at once."""

    def __init__(self, folder: Path | None = None):
        self.folder = (folder or node_folder()) / "files"
        self._locks = self.folder.with_name("locks")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._locks.mkdir(exist_ok=True)

    def hold(self, key: str, size: int, fetch: Callable[[BinaryIO], None]) -> Held:
        """The file under `key`, fetched first if it is not there.

        Args:
            key: stands for its content.
            size: bytes to make room for.
            fetch: writes the content to a file; whatever it raises leaves nothing behind. Of
                several processes that ask at once, one calls it.

        Raises:
            OSError: if the file can't be written.
        """
        path = self.folder / key
        held = self._held(path)
        if held is not None:
            return held
        with self._fetching(key):
            held = self._held(path)  # another process may have fetched it meanwhile
            if held is None:
                self._make_room(size)
                held = self._fetched(path, fetch)
                self._make_room(0)
        return held

    def _held(self, path: Path) -> Held | None:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        _lock(file, fcntl.LOCK_SH)
        if os.fstat(file).st_nlink == 0:  # removed between the two lines above
            os.close(file)
            return None
        os.utime(file)  # the time of use: what the file says of its content never changes
        return Held(path, file)

    def _fetched(self, path: Path, fetch: Callable[[BinaryIO], None]) -> Held:
        aside = path.with_name(f"{path.name}{PARTIAL}")
        try:
            with aside.open("wb") as out:
                fetch(out)
                out.flush()
                # Held before it has its name: nobody can remove it in between.
                file = os.dup(out.fileno())
            _lock(file, fcntl.LOCK_SH)
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        return Held(path, file)

    @contextmanager
    def _fetching(self, key: str) -> Iterator[None]:
        """One process at a time fetches a key."""
        file = self._open_lock(key)
        try:
            _lock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _open_lock(self, key: str) -> int:
        # A lock file can't be removed without a race, so there is a fixed number of them.
        name = f"{sum(key.encode()) % LOCKS:02x}"
        return os.open(self._locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    # ------------------------------------------------------------------------ bound

    def _make_room(self, size: int) -> None:
        """Remove what was not used for longest, until `size` bytes more fit."""
        file = os.open(self._locks / "room", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(file, fcntl.LOCK_EX)
            self._remove_until(size)
        finally:
            os.close(file)

    def _remove_until(self, size: int) -> None:
        found = sorted(self._entries(), key=lambda entry: entry[1].st_mtime_ns)
        used = sum(status.st_size for _, status in found)
        bound = self._bound(used)
        for path, status in found:
            if used + size <= bound:
                return
            if self._remove(path):
                used -= status.st_size
        if used + size > bound:
            _warn_once(self.folder, used + size, bound)

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    yield Path(entry.path), entry.stat()

    def _bound(self, used: int) -> int:
        asked = os.environ.get(BYTES)
        if asked:
            return parse_bytes(asked)
        return int((shutil.disk_usage(self.folder).free + used) * DEFAULT_SHARE)

    def _remove(self, path: Path) -> bool:
        """Remove a file that nobody holds; returns whether it is gone."""
        if path.name.endswith(PARTIAL):
            return self._remove_left(path)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:  # held, or a file system without locks
            return False
        finally:
            os.close(file)
        return True

    def _remove_left(self, path: Path) -> bool:
        """Remove what a killed process has fetched in part; who fetches now has the lock."""
        file = self._open_lock(path.name.removesuffix(PARTIAL))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:
            return False
        finally:
            os.close(file)
        return True


def parse_bytes(text: str) -> int:
    """A number of bytes such as ``500G``.

    Raises:
        ConfigError: if it is none.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)B?\s*", text.upper())
    if found is None:
        raise ConfigError(f"{BYTES} = {text!r}: give a number of bytes, such as 200G")
    return int(float(found[1]) * UNITS[found[2]])


def _lock(file: int, kind: int) -> None:
    """Take a lock, and wait for it; where there are none, go on without."""
    with suppress(OSError):
        fcntl.flock(file, kind)


_warned: set[Path] = set()


def _warn_once(folder: Path, needed: int, bound: int) -> None:
    if folder in _warned:
        return
    _warned.add(folder)
    log.warning(
        "%s: what is in use on this node takes %.1f GB, more than the %.1f GB that the cache may "
        "have: raise %s, or let %s name a larger disk",
        *(folder, needed / 1e9, bound / 1e9, BYTES, FOLDER),
    )
