"""The history of a run: `metrics.jsonl`, where no step stands twice.

There are two kinds of rows, *training* (they have a ``loss``) and *validation* (they
have a ``val_loss`` and no ``loss``). Within a kind, steps only grow. Both kinds come in
the order of the training, so what a killed driver left is the true history up to some
step, and whatever is at or before that step is already there. While the disk is full, rows
wait in memory, and go to the file in their order once there is room.
"""

from __future__ import annotations

import errno
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
Kind = Literal["training", "validation"]


class Mark(BaseModel):
    """A place in the file up to which its content is known."""

    bytes: int = 0
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
        """Open or create the file and drop what was only half written.

        Args:
            path: the file.
            known: a mark from an earlier `mark`, so that only what came after it is read.
        """
        self.path = path
        # Not buffered: a row is in the kernel's hands before the next step is looked at.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._file).st_size
        start = known if known and known.bytes <= size else Mark()
        self._last = dict(start.last)
        self._size = self._scan(start.bytes)
        self._written = dict(self._last)
        self._waiting: deque[_Line] = deque()
        self.dropped = size - self._size
        """Bytes of a damaged end that were cut off."""
        os.ftruncate(self._file, self._size)

    def _scan(self, start: int) -> int:
        """Take in the rows after byte `start`; returns where the last whole one ends."""
        end = start
        with self.path.open("rb") as lines:
            lines.seek(start)
            for line in lines:
                row = _parse(line)
                if row is None:
                    break
                self._last[kind_of(row)] = row["step"]
                end += len(line)
        return end

    def last(self, kind: Kind) -> int | None:
        """The last step of `kind`, or nothing."""
        return self._last.get(kind)

    @property
    def mark(self) -> Mark:
        """Where the file stands now."""
        return Mark(bytes=self._size, last=dict(self._written))

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
        with self.path.open("rb") as lines:
            kept = [line for line in lines if (row := _parse(line)) and row["step"] <= step]
        try:
            replace_text(self.path, b"".join(kept).decode())
        except OSError as error:
            raise RunError(f"{self.path}: can't be rewritten: {error}; free some space") from None
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._last = {}
        self._size = self._scan(0)
        self._written = dict(self._last)
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
                row = _parse(line)
                if row is None:
                    return
                self._at += len(line)
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


def _plain(value: Any) -> Any:
    """`value` as JSON knows it: NumPy scalars unpacked, what is not finite as null."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
