"""The lock file: the version of each package that all machines install."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from manta.config.errors import ConfigError

NAME = "requirements.lock"


def read_lock(path: Path) -> dict[str, str]:
    """Package → version, names in pip's normal form.

    Raises:
        ConfigError: if the file can't be read, or a line pins no version.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    pins = {}
    for number, line in enumerate(lines, start=1):
        pin = line.rstrip("\\").strip()  # the lines after a pin are checksums of its files
        if not pin or pin.startswith(("#", "--hash=")):
            continue
        name, equals, version = pin.partition("==")
        if not equals:
            raise ConfigError(
                f"{path}:{number}: {pin!r} pins no version; write the lock file anew: make lock"
            )
        pins[normal(name)] = version.strip()
    return pins


def normal(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name.strip().split("[")[0]).lower()


def installs(lock: Path) -> str:
    """The command that installs a lock file for this Python."""
    return f"{sys.executable} {lock.parent / 'cluster' / 'install.py'} {lock}"


def find_lock(near: Path) -> Path | None:
    """The lock file of the repository that `near`, a file or folder, is in."""
    for folder in (Path.cwd(), *near.resolve().parents, *Path(__file__).resolve().parents):
        if (folder / NAME).is_file():
            return folder / NAME
    return None
