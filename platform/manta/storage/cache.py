"""The node's cache: files of stores, each fetched once, shared by all processes, within a bound.

The cache lies in ``MANTA_CACHE`` (by default ``~/.cache/manta``) and is bounded by
``MANTA_CACHE_BYTES``, such as ``200G``. A file's key stands for its content, so that no file is
ever out of date. A process holds a shared lock on each file that it uses; when the bound is
reached, files without a lock are removed, least recently used first. Files in use may exceed the
bound: then there is a warning, as only more space helps. Locks are flock's, and end with their
process.
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
# The default bound, as a share of the disk's free space and the cache together.
DEFAULT_SHARE = 0.5
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
PARTIAL = ".partial"
LOCKS = 256


def node_folder() -> Path:
    """The folder of this node for files that can be fetched again; `MANTA_CACHE` sets it."""
    return Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "manta")


class CachedFile:
    """A cached file that isn't removed until `release`, or until this object is deleted."""

    def __init__(self, path: Path, file: int = -1):
        self.path, self._file = path, file

    def release(self) -> None:
        """Allow the file to be removed when space is needed; nothing if called again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    __del__ = release


class Cache:
    """The node's cache; any number of processes may use it at once."""

    def __init__(self, folder: Path | None = None):
        self.folder = (folder or node_folder()) / "files"
        self._locks = self.folder.with_name("locks")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._locks.mkdir(exist_ok=True)

    def hold(self, key: str, size: int, fetch: Callable[[BinaryIO], None]) -> CachedFile:
        """The file under `key`, fetched first if it is not there.

        Args:
            key: a name that stands for the file's content, such as its checksum.
            size: the file's size in bytes.
            fetch: writes the content to the file that it is called with; if it raises, nothing is
                left behind. If several processes ask at once, only one calls it.

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

    def _held(self, path: Path) -> CachedFile | None:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        _lock(file, fcntl.LOCK_SH)
        if os.fstat(file).st_nlink == 0:  # removed between the two lines above
            os.close(file)
            return None
        os.utime(file)  # the content never changes, so the modification time is that of last use
        return CachedFile(path, file)

    def _fetched(self, path: Path, fetch: Callable[[BinaryIO], None]) -> CachedFile:
        aside = path.with_name(f"{path.name}{PARTIAL}")
        try:
            with aside.open("wb") as out:
                fetch(out)
                out.flush()
                # Locked before it gets its name, so that no process can remove it in between.
                file = os.dup(out.fileno())
            _lock(file, fcntl.LOCK_SH)
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        return CachedFile(path, file)

    @contextmanager
    def _fetching(self, key: str) -> Iterator[None]:
        """Lock a key, so that one process at a time fetches it."""
        file = self._open_lock(key)
        try:
            _lock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _open_lock(self, key: str) -> int:
        # Lock files can't be removed without a race, so keys share a fixed number of them.
        name = f"{sum(key.encode()) % LOCKS:02x}"
        return os.open(self._locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    # ------------------------------------------------------------------------ bound

    def _make_room(self, size: int) -> None:
        """Remove the least recently used files, until `size` bytes more fit."""
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
        """Remove a file unless a process holds it; returns whether it is gone."""
        if path.name.endswith(PARTIAL):
            return self._remove_left(path)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:  # held by a process, or on a file system without locks
            return False
        finally:
            os.close(file)
        return True

    def _remove_left(self, path: Path) -> bool:
        """Remove what a killed process has fetched in part; a live one holds the key's lock."""
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
        ConfigError: if `text` isn't a number of bytes.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)B?\s*", text.upper())
    if found is None:
        raise ConfigError(f"{BYTES} = {text!r}: give a number of bytes, such as 200G")
    return int(float(found[1]) * UNITS[found[2]])


def _lock(file: int, kind: int) -> None:
    """Take a lock, waiting for it; do nothing on a file system without locks."""
    with suppress(OSError):
        fcntl.flock(file, kind)


_warned: set[Path] = set()


def _warn_once(folder: Path, needed: int, bound: int) -> None:
    if folder in _warned:
        return
    _warned.add(folder)
    log.warning(
        "%s: files in use on this node take %.1f GB, more than the %.1f GB that the cache may "
        "have: raise %s, or set %s to a folder on a larger disk",
        *(folder, needed / 1e9, bound / 1e9, BYTES, FOLDER),
    )
