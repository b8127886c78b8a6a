"""The working folder: a folder of this node for the small files of a run or sweep in a store.

The store's files count. A driver that opens a run copies them from the store, whatever an earlier
driver has left in the folder; a `Courier` copies what is written in the folder to the store.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from manta.storage.cache import node_folder
from manta.storage.place import Place
from manta.storage.store import StorePath

FOLDER = "runs"
LOCK = ".lock"
PULLING_THREADS = 8
# Age at which a folder is removed here; the store keeps its files.
KEPT_SECONDS = 7 * 24 * 3600.0


def working_folder(place: Place) -> Path:
    """The folder in which a driver on this node works on `place`; `place` itself if it is one."""
    if not isinstance(place, StorePath):
        return place
    base, _, options = place.url.partition("?")
    scheme, _, path = base.partition("://")
    # The options name the server, and buckets of two servers may have the same name.
    server = hashlib.sha256(options.encode()).hexdigest()[:8]
    return node_folder() / FOLDER / f"{scheme}-{server}" / path.lstrip("/")


def pull(place: StorePath, folder: Path) -> None:
    """Replace the files directly in `folder` by those of the store.

    Folders in it, and files whose names begin with a dot, are left alone.

    Raises:
        OSError: if the store or the disk fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = {name for name in place.files() if not name.startswith(".")}
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("."):
            path.unlink()
    for name in sorted(there):
        (folder / name).write_bytes((place / name).read_bytes())


def pull_all(place: StorePath, folder: Path) -> None:
    """`pull` a sweep and each of its trials.

    Raises:
        OSError: if the store or the disk fails.
    """
    pull(place, folder)
    with ThreadPoolExecutor(PULLING_THREADS) as threads:
        list(threads.map(lambda name: pull(place / name, folder / name), place.folders()))


def push(folder: Path, place: StorePath, names: Iterable[str]) -> None:
    """Copy those files of `folder` that exist to the store, in the order of `names`.

    Raises:
        OSError: if the store fails.
    """
    for name in names:
        with suppress(FileNotFoundError):
            (place / name).write_bytes((folder / name).read_bytes())


def tidy() -> None:
    """Remove the folders of runs that no driver works on, and none has for a week."""
    before = time.time() - KEPT_SECONDS
    for lock in list((node_folder() / FOLDER).rglob(LOCK)):
        with suppress(OSError):
            if _newest(lock.parent) < before and _is_free(lock):
                shutil.rmtree(lock.parent, ignore_errors=True)


def _newest(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.rglob("*")), default=math.inf)


def _is_free(lock: Path) -> bool:
    file = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True
