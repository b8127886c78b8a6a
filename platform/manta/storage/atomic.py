"""Write files such that each is whole under its final name, or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from manta.config.errors import CorpusError

# Errors of a full disk; EFBIG is that of a limit on file size (ulimit -f).
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def whole_file(path: Path, *, aside: Path | None = None) -> Iterator[BinaryIO]:
    """Open `path` for writing; the file gets this name only once all of it is on the disk.

    Args:
        path: the final path. An old file there is replaced.
        aside: folder for the unfinished file, on the same file system; by default that of `path`.

    Raises:
        CorpusError: if the file can't be written, as on a full disk. Nothing is left behind.
    """
    # With the process id, so that a worker which outlived its driver doesn't write into this file.
    temporary = (aside or path.parent) / f"{path.name}.{os.getpid()}.tmp"
    try:
        with _replacing(path, temporary) as file:
            yield file
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from None


@contextlib.contextmanager
def _replacing(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """Open `temporary`, which replaces `path` once all of it is on the disk."""
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # raise the first error, not that of the removal
            temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes, *, aside: Path | None = None) -> None:
    """Write `content` to `path`, whole or not at all. Raises as `whole_file` does."""
    with whole_file(path, aside=aside) as file:
        file.write(content)


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path`, which this process alone writes to, whole or not at all.

    Raises:
        OSError: if the file can't be written. Nothing is left behind.
    """
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path`, which this process alone writes to.

    Raises:
        OSError: if the file can't be written. Nothing is left behind.
    """
    with _replacing(path, path.with_name(f".{path.name}.tmp")) as file:
        yield file


def write_synced(path: Path, content: bytes) -> None:
    """Write `content` to `path` as `replace_text` does, and durably: it survives a power cut."""
    with replacing(path) as file:
        file.write(content)
    sync_folder(path.parent)


def link(source: Path, target: Path) -> None:
    """Hard-link a file that is never changed in place; copy it where links aren't supported."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        shutil.copyfile(source, target)


def as_umask_says(folder: Path) -> None:
    """Give the files in `folder` the umask's mode; some libraries allow only the owner to read."""
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
            f"{path}: can't be written: {reason}; free some space and run the same command again: "
            "it continues from what is finished"
        )
    return CorpusError(f"{path}: can't be written: {reason}")
