"""The history of a run: `metrics.jsonl`, where no step stands twice.

There are two kinds of rows, *training* (they have a ``loss``) and *validation* (they
have a ``val_loss`` and no ``loss``). Within a kind, steps only grow. Both kinds come in
the order of the training, so what a killed driver left is the true history up to some
step, and whatever is at or before that step is already there. While the disk is full, rows
wait in memory, and go to the file in their order once there is room.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field

from manta.config.errors import RunError
from manta.storage.atomic import NO_SPACE, replace_text

METRICS = "metrics.jsonl"
# Lines that were in it and are no rows.
DAMAGED = "metrics.damaged"
MOST_SHOWN = 8
Kind = Literal["training", "validation"]


class Mark(BaseModel):
    """A place in the file up to which its content is known, by its SHA-256."""

    bytes: int = 0
    digest: str = Field(default="", description="empty in those of older versions")
    last: dict[Kind, int] = Field(default_factory=dict)


class _Line(NamedTuple):
    """A row as it goes into the file."""

    kind: Kind
    step: int
    text: bytes


def kind_of(row: Mapping[str, Any]) -> Kind:
    """Which of the two histories `row` belongs to."""
    return "training" if "loss" in row or "val_loss" not in row else "validation"


class History:
    """Appends rows, each step of a kind once."""

    def __init__(self, path: Path, known: Mark | None = None) -> None:
        """Open or create the file, and have only whole rows in it, each in its place.

        Of a last line that was only half written nothing is kept. Other lines that are no rows
        go to a file beside it.

        Args:
            path: the file.
            known: a mark from an earlier `mark`, so that only rows that came after it are read.
        """
        self.path = path
        # Not buffered: a row is in the kernel's hands before the next step is looked at.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._waiting: deque[_Line] = deque()
        self.notes: list[str] = []
        """What was wrong with the file, for people; nothing as a rule."""
        content = path.read_bytes()
        known = known or Mark()
        head = _sha256(content[: known.bytes])
        as_known = len(content) >= known.bytes and known.digest in ("", head.hexdigest())
        self.changed = not as_known
        """Whether rows that were recorded once may be missing from it, or have other values."""
        if self.changed:
            self.notes.append(_changed(known, len(content)))
        self._take(content, known if as_known else Mark())

    def _take(self, content: bytes, known: Mark) -> None:
        """Begin with what the file holds, of which all up to a mark is known to be right."""
        begin = known.bytes
        self._last = dict(known.last)
        good, bad = [content[:begin]], []
        first = content.count(b"\n", 0, begin) + 1
        for number, line in enumerate(content[begin:].splitlines(keepends=True), first):
            row = _parse(line)
            if row is not None and row["step"] > self._last.get(kind_of(row), -1):
                self._last[kind_of(row)] = row["step"]
                good.append(line)
            elif line.endswith(b"\n"):
                bad.append((number, line))
            else:
                self.notes.append(f"{METRICS}: a half-written end of {len(line)} bytes was cut off")
        kept = b"".join(good)
        self._size, self._sha256 = len(kept), _sha256(kept)
        if bad:
            self._set_aside(bad)
            self._replace(kept)
        else:
            os.ftruncate(self._file, self._size)
        self._written = dict(self._last)

    def _set_aside(self, bad: list[tuple[int, bytes]]) -> None:
        """Keep lines that are no rows, before they leave the file."""
        aside = self.path.with_name(DAMAGED)
        with aside.open("ab") as file:
            file.writelines(line for _, line in bad)
            file.flush()
            os.fsync(file.fileno())
        numbers = ", ".join(str(number) for number, _ in bad[:MOST_SHOWN])
        more = ", …" if len(bad) > MOST_SHOWN else ""
        self.changed = True
        self.notes.append(
            f"{METRICS}: {len(bad)} of its lines ({numbers}{more}) are damaged: they are in "
            f"{DAMAGED} now"
        )

    def _replace(self, content: bytes) -> None:
        """Put another content in the file's place, whole or not at all."""
        replace_text(self.path, content.decode())
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._size, self._sha256 = len(content), _sha256(content)

    def fill(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Put rows of steps that are missing in their places; returns how many there were.

        Raises:
            OSError: if the disk won't take it.
        """
        lines = {_place(row): line for line in self._lines() if (row := _parse(line))}
        before = len(lines)
        for added in rows:
            plain = {key: _plain(value) for key, value in added.items()}
            line = (json.dumps(plain, allow_nan=False) + "\n").encode()
            lines.setdefault(_place(added), line)
        if len(lines) > before:
            self._replace(b"".join(lines[place] for place in sorted(lines)))
            for step, later in lines:
                kind: Kind = "validation" if later else "training"
                self._last[kind] = max(step, self._last.get(kind, 0))
            self._written = dict(self._last)
        return len(lines) - before

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True)

    def last(self, kind: Kind) -> int | None:
        """The last step of `kind`, or nothing."""
        return self._last.get(kind)

    @property
    def mark(self) -> Mark:
        """Where the file stands now."""
        digest = self._sha256.hexdigest()
        return Mark(bytes=self._size, digest=digest, last=dict(self._written))

    @property
    def waiting(self) -> int:
        """Rows that are taken and not in the file: the disk is full."""
        return len(self._waiting)

    def append(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Add `row` unless its step is there already.

        Returns:
            The row as it is, or will be, in the file, or nothing if it was there.

        Raises:
            RunError: if the file can't be written, for another reason than a full disk.
        """
        kind, step = kind_of(row), int(row["step"])
        last = self._last.get(kind)
        if last is not None and step <= last:
            return None
        plain = {key: _plain(value) for key, value in row.items()}
        text = (json.dumps(plain, allow_nan=False) + "\n").encode()
        self._waiting.append(_Line(kind, step, text))
        self._last[kind] = step
        self.write()
        return plain

    def rewind(self, step: int) -> None:
        """Drop the rows of steps above `step`: what came after it is not what the run became.

        The others are written aside and put in place, so that a crash leaves the one file or
        the other. Who reads the file at the same time finds another file under its name.

        Raises:
            RunError: if the disk won't take it.
        """
        kept = [line for line in self._lines() if (row := _parse(line)) and row["step"] <= step]
        try:
            self._replace(b"".join(kept))
        except OSError as error:
            raise RunError(f"{self.path}: can't be rewritten: {error}; free some space") from None
        self._take(b"".join(kept), Mark())
        self._waiting = deque(line for line in self._waiting if line.step <= step)
        for line in self._waiting:
            self._last[line.kind] = line.step

    def write(self) -> None:
        """Write the rows that wait, as far as there is room.

        Raises:
            RunError: if the file can't be written, for another reason than a full disk.
        """
        while self._waiting:
            line = self._waiting[0]
            try:
                if os.pwrite(self._file, line.text, self._size) < len(line.text):
                    raise OSError(errno.ENOSPC, "the disk took only a part of it")
            except OSError as error:
                os.ftruncate(self._file, self._size)
                if error.errno in NO_SPACE:
                    return
                raise RunError(
                    f"{self.path}: a row can't be written: {error}; mend the storage, "
                    "then give the same command again to go on"
                ) from None
            self._size += len(line.text)
            self._sha256.update(line.text)
            self._written[line.kind] = line.step
            self._waiting.popleft()

    def snapshot(self) -> tuple[int, int]:
        """A descriptor of its own of the file, and how many bytes of it there are now.

        Those stay as they are: rows are added at the end, and a rewind makes another file.
        """
        return os.dup(self._file), self._size

    def sync(self) -> None:
        """Force what was appended to the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file. Harmless when called again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Tail:
    """Reads the rows of a file that may still be growing."""

    def __init__(self, path: Path) -> None:
        """Begin before the first row; the file need not be there yet."""
        self._path = path
        self._at = 0
        self._file: int | None = None  # its number on the disk

    def rows(self) -> Iterator[dict[str, Any]]:
        """The whole rows that came since the last call; all of them if the file is another."""
        if not self._path.exists():
            return
        with self._path.open("rb") as lines:
            file = os.fstat(lines.fileno()).st_ino
            if file != self._file:
                self._file, self._at = file, 0
            lines.seek(self._at)
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                row = _parse(line)
                if row is not None:  # what is damaged is told by who writes the file
                    yield row


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Begin a history with rows of another, durably."""
    with path.open("w") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def _parse(line: bytes) -> dict[str, Any] | None:
    """A row, or nothing if the line was cut off or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _place(row: Mapping[str, Any]) -> tuple[int, bool]:
    """Where a row belongs: its step, of which the loss of training comes first."""
    return int(row["step"]), kind_of(row) == "validation"


def _changed(known: Mark, size: int) -> str:
    """That a file is not what it was when it was last recorded."""
    ends = ", ".join(f"{kind} row {step:,}" for kind, step in known.last.items())
    what = f"it has {size:,} bytes" if size < known.bytes else "its content is another"
    return (
        f"{METRICS} was changed after it was written: {what}, where {known.bytes:,} bytes up to "
        f"{ends or 'its begin'} were recorded: rows may be missing, or have other values"
    )


def _sha256(content: bytes) -> hashlib._Hash:
    return hashlib.sha256(content)


def _plain(value: Any) -> Any:
    """`value` as JSON knows it: NumPy scalars unpacked, what is not finite as null."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
