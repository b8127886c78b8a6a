"""The history of a run: `metrics.jsonl`, where no step stands twice.

There are two kinds of rows, *training* (they have a ``loss``) and *validation* (they
have a ``val_loss`` and no ``loss``). Within a kind, steps only grow. Both kinds come in
the order of the training, so what a killed driver left is the true history up to some
step, and whatever is at or before that step is already there. While the disk is full, rows
wait in memory, and go to the file in their order once there is room.
"""

from __future__ import annotations

import errno
import heapq
import json
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from manta.config.errors import RunError
from manta.config.metrics import LOSS, VAL_LOSS
from manta.record.row_chain import LONGEST_LINE, Kind, Mark, MarkCheck, RowChain, lines_in
from manta.storage.atomic import NO_SPACE, replacing
from manta.storage.run_folder import DAMAGED, METRICS

# Lines that were in it and are no rows.
MOST_SHOWN = 8
CHUNK = 2**20


class _Line(NamedTuple):
    """A row as it goes into the file."""

    kind: Kind
    step: int
    text: bytes


def kind_of(row: Mapping[str, Any]) -> Kind:
    """Which of the two histories `row` belongs to."""
    return "training" if LOSS in row or VAL_LOSS not in row else "validation"


class _Found(NamedTuple):
    """A line of the file, its number, and the row that it is, or nothing."""

    number: int
    line: bytes
    row: dict[str, Any] | None


class History:
    """Appends rows, each step of a kind once."""

    def __init__(self, path: Path, known: Mark | None = None) -> None:
        """Open or create the file, and have only whole rows in it, each in its place.

        Of a last line that was only half written nothing is kept. Other lines that are no rows
        go to a file beside it.

        Args:
            path: the file.
            known: an earlier `mark`. If the file still has it, only rows that came after it are
                read; whether those before it are as they were, `recheck` tells.
        """
        self.path = path
        # Not buffered: a row is in the kernel's hands before the next step is looked at.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._waiting: deque[_Line] = deque()
        self.notes: list[str] = []
        """What was wrong with the file, for people; nothing as a rule."""
        self.changed = False
        """Whether rows that were recorded once may be missing from it, or have other values."""
        known = known or Mark()
        self.unproven = known.unproven
        """Rows up to this step were found changed once, and taken as they were found."""
        if known.is_in(self._file):
            self._take(known)
        else:
            self._take_all(known)

    def _take_all(self, known: Mark) -> None:
        """Begin with what the file holds, and tell if it is not what it was at a mark."""
        check = MarkCheck(known)
        for line in self._lines():
            check.take(line)
        problem = check.problem(METRICS, os.fstat(self._file).st_size)
        if problem:
            self.changed = True
            self.notes.append(problem)
        self._take(Mark())
        if problem:
            self.unproven = max(self.unproven, *self._last.values(), *known.last.values(), 0)

    def _take(self, begin: Mark) -> None:
        """Begin with what the file holds, of which all up to a mark is known to be right."""
        rows, bad, shown = RowChain(begin), 0, list[int]()
        self._last = dict(begin.last)
        for number, line, row in self._found(begin):
            if row is not None:
                self._last[kind_of(row)] = row["step"]
                rows.take(line)
            elif is_whole(line):
                bad += 1
                shown += [number] if bad <= MOST_SHOWN else []
            else:
                self.notes.append(f"{METRICS}: a half-written end of {len(line)} bytes was cut off")
        if bad:
            self._set_aside(begin)
            self.changed = True
            damaged = damaged_lines(bad, shown)
            self.notes.append(f"{METRICS}: {damaged}: they are in {DAMAGED} now")
        else:
            os.ftruncate(self._file, rows.bytes)
        self._rows, self._written = rows, dict(self._last)
        for waiting in self._waiting:
            self._last[waiting.kind] = waiting.step

    def _found(self, begin: Mark) -> Iterator[_Found]:
        """The lines from a mark on; what is no row, or not in its place, is none."""
        last, number = dict(begin.last), begin.rows
        for line in self._lines(begin.bytes):
            number += 1
            row = parse(line)
            if row is not None and row["step"] <= last.get(kind_of(row), -1):
                row = None
            if row is not None:
                last[kind_of(row)] = row["step"]
            yield _Found(number, line, row)

    def _lines(self, begin: int = 0) -> Iterator[bytes]:
        with open(os.dup(self._file), "rb") as file:
            file.seek(begin)
            yield from lines_in(file)

    def _set_aside(self, begin: Mark) -> None:
        """Take lines that are no rows out of the file, and keep them in one beside it."""
        with self.path.with_name(DAMAGED).open("ab") as aside:
            for _, line, row in self._found(begin):
                if row is None and is_whole(line):
                    aside.write(line)
            aside.flush()
            os.fsync(aside.fileno())
        self._replace(self._without_damage(begin))

    def _without_damage(self, begin: Mark) -> Iterator[bytes]:
        """The bytes up to a mark, and the rows after it."""
        for at in range(0, begin.bytes, CHUNK):
            yield os.pread(self._file, min(CHUNK, begin.bytes - at), at)
        for _, line, row in self._found(begin):
            if row is not None:
                yield line

    def _replace(self, content: Iterable[bytes]) -> None:
        """Put another content in the file's place, whole or not at all."""
        with replacing(self.path) as file:
            file.writelines(content)
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def recheck(self) -> bool:
        """Read all of the file, and take it as it is if it is not what was written.

        Returns:
            Whether it was not; `notes` say what was wrong.

        Raises:
            OSError: if the disk won't take what has to be written anew.
        """
        known, check = self.mark, MarkCheck(self.mark)
        for line in self._lines():
            check.take(line)
        if not check.right:
            self._take_all(known)
        return not check.right

    def fill(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Put rows of steps that are missing in their places; returns how many there were.

        Raises:
            OSError: if the disk won't take it.
        """
        absent = {_place(row): as_line(row) for row in rows}
        for _, _, row in self._found(Mark()):
            if row is not None:
                absent.pop(_place(row), None)
        if absent:
            here = ((_place(row), line) for _, line, row in self._found(Mark()) if row)
            both = heapq.merge(here, sorted(absent.items()))
            self._replace(line for _, line in both)
            self._take(Mark())
        return len(absent)

    def last(self, kind: Kind) -> int | None:
        """The last step of `kind`, or nothing."""
        return self._last.get(kind)

    @property
    def mark(self) -> Mark:
        """Where the file stands now."""
        return self._rows.mark(dict(self._written), self.unproven)

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
        text = as_line(plain)
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
        kept = (line for _, line, row in self._found(Mark()) if row and row["step"] <= step)
        try:
            self._replace(kept)
        except OSError as error:
            raise RunError(f"{self.path}: can't be rewritten: {error}; free some space") from None
        self._waiting = deque(line for line in self._waiting if line.step <= step)
        self.unproven = min(self.unproven, step)
        self._take(Mark())

    def write(self) -> None:
        """Write the rows that wait, as far as there is room.

        Raises:
            RunError: if the file can't be written, for another reason than a full disk.
        """
        while self._waiting:
            line = self._waiting[0]
            try:
                if os.pwrite(self._file, line.text, self._rows.bytes) < len(line.text):
                    raise OSError(errno.ENOSPC, "the disk took only a part of it")
            except OSError as error:
                os.ftruncate(self._file, self._rows.bytes)
                if error.errno in NO_SPACE:
                    return
                raise RunError(
                    f"{self.path}: a row can't be written: {error}; mend the storage, "
                    "then give the same command again to go on"
                ) from None
            self._rows.take(line.text)
            self._written[line.kind] = line.step
            self._waiting.popleft()

    def snapshot(self) -> tuple[int, int]:
        """A descriptor of its own of the file, and how many bytes of it there are now.

        Those stay as they are: rows are added at the end, and a rewind makes another file.
        """
        return os.dup(self._file), self._rows.bytes

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
                row = parse(line)
                if row is not None:  # what is damaged is told by who writes the file
                    yield row


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Begin a history with rows of another, durably."""
    with path.open("wb") as file:
        file.writelines(as_line(row) for row in rows)
        file.flush()
        os.fsync(file.fileno())


def as_line(row: Mapping[str, Any]) -> bytes:
    """A row as it stands in the file."""
    plain = {key: _plain(value) for key, value in row.items()}
    return (json.dumps(plain, allow_nan=False) + "\n").encode()


def parse(line: bytes) -> dict[str, Any] | None:
    """A row, or nothing if the line was cut off or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def damaged_lines(count: int, shown: list[int]) -> str:
    """That so many lines are no rows, of which the numbers of some are `shown`."""
    more = ", …" if count > len(shown) else ""
    return f"{count:,} of its lines ({', '.join(map(str, shown))}{more}) are damaged"


def is_whole(line: bytes) -> bool:
    """Whether a line, or a piece of one that is too long, is more than a half-written end."""
    return line.endswith(b"\n") or len(line) == LONGEST_LINE


def _place(row: Mapping[str, Any]) -> tuple[int, bool]:
    """Where a row belongs: its step, of which the loss of training comes first."""
    return int(row["step"]), kind_of(row) == "validation"


def _plain(value: Any) -> Any:
    """`value` as JSON knows it: NumPy scalars unpacked, what is not finite as null."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
