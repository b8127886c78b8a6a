"""A folder of this node for the small files of what is kept in a store.

The store has the truth. Who opens a run gets its files from there, whatever an earlier driver
has left in the folder; what is written in the folder is carried to the store by a `Courier`.
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
# What was not touched for so long nobody misses here; the store has it.
KEPT_SECONDS = 7 * 24 * 3600.0


def working_folder(place: Place) -> Path:
    """Where a driver on this node works on what is kept at `place`: there, if it is a folder."""
    if not isinstance(place, StorePath):
        return place
    base, _, options = place.url.partition("?")
    scheme, _, path = base.partition("://")
    # The options name the server: the same bucket on another one is another bucket.
    server = hashlib.sha256(options.encode()).hexdigest()[:8]
    return node_folder() / FOLDER / f"{scheme}-{server}" / path.lstrip("/")


def pull(place: StorePath, folder: Path) -> None:
    """Make the files right in `folder` those that the store has.

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
    """The same for a sweep: also the files right in the folders of its trials.

    Raises:
        OSError: if the store or the disk fails.
    """
    pull(place, folder)
    with ThreadPoolExecutor(PULLING_THREADS) as threads:
        list(threads.map(lambda name: pull(place / name, folder / name), place.folders()))


def push(folder: Path, place: StorePath, names: Iterable[str]) -> None:
    """Copy files of `folder` to the store, in this order, as far as they are there.

    Raises:
        OSError: if the store fails.
    """
    for name in names:
        with suppress(FileNotFoundError):
            (place / name).write_bytes((folder / name).read_bytes())


def tidy() -> None:
    """Remove the folders of runs that nobody works on and nobody did for a week."""
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
