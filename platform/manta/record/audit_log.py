"""What was done to a run or an exported model: a log that is only added to, and is chained.

Each line has the SHA-256 of the line before it. A line that was changed, removed or put in is found
by it; the end can be cut off unnoticed unless the last digest was noted elsewhere, as gates and
evaluations do. The chain shows accidents and careless edits: whoever can write the file can also
compute a new chain.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manta.config.errors import RunError
from manta.record.run_state import utc_now
from manta.storage.file_lock import FileLock
from manta.storage.place import Place, put
from manta.storage.run_folder import AUDIT

# Actions that a log may have.
MEASURED, TEST_SPLIT, GATED = "evaluate", "read the test split", "gate"
EXPORTED, FORKED, BEGUN_AS_FORK = "export", "fork", "begin as a fork"
PROMOTED, REGISTERED, RETRAINED = "promote", "register", "retrain"
ALIAS_SET, ROLLED_BACK, ALERTED = "set alias", "roll back", "alert"
# The digest before the first line.
START = "0" * 64


@dataclass(frozen=True)
class AuditEntry:
    """One thing that was done.

    Attributes:
        time: time in UTC.
        user: name of the user whose process did it.
        host: name of the machine.
        action: word for what was done, such as ``evaluate``.
        facts: further facts, by name.
    """

    time: str
    user: str
    host: str
    action: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class AuditLog:
    """The log of a run or model, read and verified.

    Attributes:
        entries: all entries, the oldest first.
        digest: digest of the last line, which stands for all.
        problem: break in the chain, in words; "" if it is whole.
    """

    entries: tuple[AuditEntry, ...]
    digest: str
    problem: str = ""

    def count(self, action: str) -> int:
        """How often something was done."""
        return sum(entry.action == action for entry in self.entries)


def read_log(place: Place) -> AuditLog:
    """The log in a folder, verified line by line; entries after a problem are not read.

    Raises:
        RunError: if the file can't be read.
    """
    path = place / AUDIT
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise RunError(f"{path}: can't be read: {error}") from None
    entries, digest = list[AuditEntry](), START
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            before = found.pop("before")
            entry = AuditEntry(**found)
        except (ValueError, KeyError, TypeError, AttributeError):
            return AuditLog(tuple(entries), digest, f"line {number} is no entry")
        if before != digest:
            return AuditLog(
                tuple(entries),
                digest,
                f"line {number} does not follow from the line before it: one of the two was "
                "changed, or a line between them removed",
            )
        entries.append(entry)
        digest = hashlib.sha256(line).hexdigest()
    return AuditLog(tuple(entries), digest)


def add_entry(place: Place, action: str, facts: Mapping[str, Any]) -> str:
    """Add what is being done, durably; returns the digest of the whole log.

    Raises:
        RunError: if the log can't be written, or its chain is broken.
    """
    with _alone(place):
        return _added(place, action, facts)


def note(place: Place, action: str, facts: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    """As `add_entry`, for what is done all the same where the log can't be written; says so."""
    try:
        add_entry(place, action, facts)
    except RunError as error:
        tell(f"note: not in the log of {place}: {error}")


def _added(place: Place, action: str, facts: Mapping[str, Any]) -> str:
    log = read_log(place)
    if log.problem:
        raise RunError(
            f"{place / AUDIT}: {log.problem}; restore the file from a copy, or move it aside to "
            "begin a new one"
        )
    entry = {
        "time": utc_now(),
        "user": user_name(),
        "host": socket.gethostname(),
        "action": action,
        "facts": dict(facts),
        "before": log.digest,
    }
    line = json.dumps(entry, ensure_ascii=False, sort_keys=True).encode()
    path = place / AUDIT
    try:
        put(path, (path.read_bytes() if path.exists() else b"") + line + b"\n")
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error}") from None
    return hashlib.sha256(line).hexdigest()


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """In it, no other process of this machine adds to the log; a store knows no such lock."""
    if not isinstance(place, Path):
        yield
        return
    try:
        lock = FileLock(place / f".{AUDIT}.lock")
    except OSError as error:
        raise RunError(f"{place / AUDIT}: can't be written: {error.strerror}") from None
    with closing(lock):
        yield


def user_name() -> str:
    """The name of the user that this process runs as."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return "unknown"
