"""Files that are whole under their final name, or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from manta.config.errors import CorpusError

# EFBIG is what a limit on file size (ulimit -f) gives in place of a full disk.
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def whole_file(path: Path, *, aside: Path | None = None) -> Iterator[BinaryIO]:
    """Open `path` for writing; it gets its name only after all of it is on the disk.

    Args:
        path: the final name. An old file there is replaced.
        aside: folder for the unfinished file, on the same filesystem; that of `path` if None.

    Raises:
        CorpusError: if the file can't be written, as on a full disk. Nothing is left behind.
    """
    # The process id keeps a worker that outlived its driver from writing into our file.
    temporary = (aside or path.parent) / f"{path.name}.{os.getpid()}.tmp"
    try:
        with _replacing(path, temporary) as file:
            yield file
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from None


@contextlib.contextmanager
def _replacing(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """Open `temporary`, which takes the place of `path` once all of it is on the disk."""
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the error that brought us here says more
            temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes, *, aside: Path | None = None) -> None:
    """Write `content` to `path`, whole or not at all. Raises as `whole_file` does."""
    with whole_file(path, aside=aside) as file:
        file.write(content)


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path`, which this process alone writes to, whole or not at all.

    Raises:
        OSError: if the disk won't take it. Nothing is left behind.
    """
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path`, which this process alone writes to.

    Raises:
        OSError: if the disk won't take it. Nothing is left behind.
    """
    with _replacing(path, path.with_name(f".{path.name}.tmp")) as file:
        yield file


def write_synced(path: Path, content: bytes) -> None:
    """Write `content` to `path`, as `replace_text` does; its name survives a power cut too."""
    with replacing(path) as file:
        file.write(content)
    sync_folder(path.parent)


def link(source: Path, target: Path) -> None:
    """Give a file that is never changed in place a second name; a copy where links are unknown."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        shutil.copyfile(source, target)


def as_umask_says(folder: Path) -> None:
    """Give the files in `folder` the mode of a new file; some libraries write for the owner."""
    probe = folder / f".{os.getpid()}.tmp"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, error: OSError) -> CorpusError:
    """The error for a file or folder that could not be written."""
    reason = error.strerror or str(error)
    if error.errno in NO_SPACE:
        return CorpusError(
            f"{path}: can't be written: {reason}; make room and run the same command again: "
            "it goes on from what is finished"
        )
    return CorpusError(f"{path}: can't be written: {reason}")
