"""A place for files: a folder of a mounted file system, or one in an object store.

`Path` and `StorePath` both have ``/``, `name`, `read_bytes` and the like; operations that differ
between them are in this module.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from manta.config.urls import is_url
from manta.storage.atomic import link, replacing, sync_folder, write_synced
from manta.storage.store import StorePath

Place: TypeAlias = Path | StorePath
# Prefix of folders that are being written or removed; readers ignore them.
ASIDE = ".tmp-"


def place_of(path: str) -> Place:
    """The place that a path or URL names.

    Raises:
        ConfigError: if it is a URL that can't name a place in a store.
    """
    return StorePath.of(path) if is_url(path) else Path(path)


def tree(place: Place) -> dict[str, int]:
    """Sizes in bytes of all files below a place, by their path relative to it."""
    if isinstance(place, StorePath):
        return place.tree()
    found = (Path(here) / name for here, _, names in os.walk(place) for name in names)
    return {path.relative_to(place).as_posix(): path.stat().st_size for path in found}


def size_so_far(folder: Place) -> int:
    """Bytes in a folder that is being written; 0 in a store, which shows whole objects only."""
    if not isinstance(folder, Path):
        return 0
    try:
        return sum(tree(folder).values())
    except OSError:  # a file was renamed meanwhile
        return -1


def put(place: Place, content: bytes) -> None:
    """Write a file, durably, whole or not at all; an old one is replaced.

    Raises:
        OSError: if the file can't be written. Nothing is left behind.
    """
    if isinstance(place, StorePath):
        place.write_bytes(content)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    write_synced(place, content)


@contextmanager
def writing(place: Place) -> Iterator[Any]:
    """Open a file for writing; see `put`.

    Raises:
        OSError: if the file can't be written.
    """
    if isinstance(place, StorePath):
        with place.open_output() as file:
            yield file
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(place) as file:
        yield file
    sync_folder(place.parent)


def remove(folder: Place, mark: str) -> None:
    """Remove a folder atomically; in a store, where it counts as there, by its file `mark`."""
    if isinstance(folder, StorePath):
        (folder / mark).unlink(missing_ok=True)
        folder.remove_tree()
        return
    aside = folder.with_name(f"{ASIDE}{folder.name}")
    try:
        os.rename(folder, aside)
    except FileNotFoundError:
        return
    sync_folder(folder.parent)
    shutil.rmtree(aside)


def move(folder: Place, target: Place) -> None:
    """Rename a folder; `target` must not exist.

    A store can't rename, so there all files are copied and then removed: a crash in between
    leaves both folders.
    """
    if isinstance(folder, Path) and isinstance(target, Path):
        os.rename(folder, target)
        sync_folder(folder.parent)
        return
    names = sorted(tree(folder))
    for name in names:
        copy(folder / name, target / name)
    for name in names:
        (folder / name).unlink(missing_ok=True)


def copy(source: Place, target: Place) -> None:
    """Give a file that is never changed in place a second name, without moving its content.

    Raises:
        TypeError: if only one of the two is in a store.
    """
    if isinstance(source, StorePath) and isinstance(target, StorePath):
        source.copy_to(target)
    elif isinstance(source, Path) and isinstance(target, Path):
        link(source, target)
    else:
        raise TypeError(f"{source} and {target}: only one of them is in a store")
