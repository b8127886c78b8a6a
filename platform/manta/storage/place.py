"""A place for files: a folder that is mounted here, or one in an object store.

Both have ``/``, `name`, `read_bytes` and the like; what they do differently is here.
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
# A folder of this prefix is on its way in or out; no reader looks at it.
ASIDE = ".tmp-"


def place_of(path: str) -> Place:
    """The place that a path or URL names.

    Raises:
        ConfigError: if it is a URL that can't be.
    """
    return StorePath.of(path) if is_url(path) else Path(path)


def tree(place: Place) -> dict[str, int]:
    """All files below a place: their paths from there, and their sizes in bytes."""
    if isinstance(place, StorePath):
        return place.tree()
    found = (Path(here) / name for here, _, names in os.walk(place) for name in names)
    return {path.relative_to(place).as_posix(): path.stat().st_size for path in found}


def size_so_far(folder: Place) -> int:
    """Bytes in a folder that is being written; 0 in a store, which shows what is whole only."""
    if not isinstance(folder, Path):
        return 0
    try:
        return sum(tree(folder).values())
    except OSError:  # a file got another name meanwhile
        return -1


def put(place: Place, content: bytes) -> None:
    """Write a file, durably, whole or not at all; an old one is replaced.

    Raises:
        OSError: if it can't be written. Nothing is left behind.
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
        OSError: if it can't be written.
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
    """Remove a folder that counts as there by its file `mark`: at no time is it half there."""
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
    """Give a folder another name. `target` must not be there.

    In a store, which renames nothing, all of it is copied and only then removed: a crash in
    between leaves both.
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
        TypeError: if one is in a store and the other is not.
    """
    if isinstance(source, StorePath) and isinstance(target, StorePath):
        source.copy_to(target)
    elif isinstance(source, Path) and isinstance(target, Path):
        link(source, target)
    else:
        raise TypeError(f"{source} and {target} are not of one kind")
