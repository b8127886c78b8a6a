"""The history of a run: `metrics.jsonl`, which has each step of a kind once.

There are three kinds of rows, *training* (they have a ``loss``), *validation* (they have a
``val_loss`` and no ``loss``) and *evaluation* (they have the name of one: what evaluators found
beside training, at the step that it is of). Within a kind, steps only grow. Rows of the first two
kinds are written in the order of the training, so a killed driver leaves the complete history up to
some step; those of evaluations come later than what was trained meanwhile. While the disk is full,
rows wait in memory; they are written in order once there is space.
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
from typing import Any, NamedTuple, get_args

from manta.config.errors import RunError
from manta.config.metrics import EVALUATION, LOSS, VAL_LOSS
from manta.record.row_chain import LONGEST_LINE, Kind, Mark, MarkCheck, RowChain, lines_in
from manta.storage.atomic import NO_SPACE, replacing
from manta.storage.run_folder import DAMAGED, METRICS

# Damaged lines that a note names by their numbers.
MOST_SHOWN = 8
CHUNK = 2**20
KINDS: tuple[Kind, ...] = get_args(Kind)
LATE = KINDS.index("evaluation")


class _Line(NamedTuple):
    """A row that waits to be written to the file."""

    kind: Kind
    step: int
    text: bytes


def kind_of(row: Mapping[str, Any]) -> Kind:
    """Whether `row` is of training, of validation or of an evaluation beside training."""
    if EVALUATION in row:
        return "evaluation"
    return "training" if LOSS in row or VAL_LOSS not in row else "validation"


class _Found(NamedTuple):
    """A line of the file, its number, and its row; None if the line is no valid row."""

    number: int
    line: bytes
    row: dict[str, Any] | None


class History:
    """Appends rows, each step of a kind once."""

    def __init__(self, path: Path, known: Mark | None = None) -> None:
        """Open or create the file, and remove what is not a valid row in its place.

        A half-written last line is dropped. Other lines that are no valid rows are moved to a
        file beside it.

        Args:
            path: the history's file.
            known: an earlier `mark`. If the file still has it, only rows after it are read; call
                `recheck` to check those before it.
        """
        self.path = path
        # Unbuffered writes: a row is in the page cache before the next step, so SIGKILL loses none.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._waiting: deque[_Line] = deque()
        self.notes: list[str] = []
        """Messages on what was wrong with the file; empty if nothing was."""
        self.changed = False
        """Whether recorded rows may be missing from the file or have other values."""
        known = known or Mark()
        self.unproven = known.unproven
        """Rows up to this step were once found changed and accepted as they were; 0 for none."""
        if known.is_in(self._file):
            self._take(known)
        else:
            self._take_all(known)

    def _take_all(self, known: Mark) -> None:
        """Accept the file's whole content, and note where it differs from that at a mark."""
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
        """Read the file's content after a mark; all up to the mark is trusted."""
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
        """The lines from a mark on; `row` is None for invalid lines and rows out of order."""
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
        """Move lines that are no valid rows from the file to one beside it."""
        with self.path.with_name(DAMAGED).open("ab") as aside:
            for _, line, row in self._found(begin):
                if row is None and is_whole(line):
                    aside.write(line)
            aside.flush()
            os.fsync(aside.fileno())
        self._replace(self._without_damage(begin))

    def _without_damage(self, begin: Mark) -> Iterator[bytes]:
        """The bytes up to a mark, then the valid rows after it."""
        for at in range(0, begin.bytes, CHUNK):
            yield os.pread(self._file, min(CHUNK, begin.bytes - at), at)
        for _, line, row in self._found(begin):
            if row is not None:
                yield line

    def _replace(self, content: Iterable[bytes]) -> None:
        """Replace the file's content atomically."""
        with replacing(self.path) as file:
            file.writelines(content)
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def recheck(self) -> bool:
        """Read the whole file, and accept its content if it differs from what was written.

        Returns:
            Whether it differed; `notes` then say how.

        Raises:
            OSError: if the file can't be rewritten.
        """
        known, check = self.mark, MarkCheck(self.mark)
        for line in self._lines():
            check.take(line)
        if not check.right:
            self._take_all(known)
        return not check.right

    def fill(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Insert rows whose steps are missing, in order; returns how many were inserted.

        With a row of an evaluation among them, or in the file, all rows are put in order.

        Raises:
            OSError: if the file can't be written.
        """
        absent = {_sort_key(row): as_line(row) for row in rows}
        late = any(kind == LATE for _, kind in absent)
        for _, _, row in self._found(Mark()):
            if row is not None:
                late = late or kind_of(row) == "evaluation"
                absent.pop(_sort_key(row), None)
        if absent:
            here: Iterable[tuple[tuple[int, int], bytes]] = (
                (_sort_key(row), line) for _, line, row in self._found(Mark()) if row
            )
            here = sorted(here) if late else here
            both = heapq.merge(here, sorted(absent.items()))
            self._replace(line for _, line in both)
            self._take(Mark())
        return len(absent)

    def last(self, kind: Kind) -> int | None:
        """The last step of `kind`; None if there is none."""
        return self._last.get(kind)

    @property
    def mark(self) -> Mark:
        """The mark at the file's current end."""
        return self._rows.mark(dict(self._written), self.unproven)

    @property
    def waiting(self) -> int:
        """The number of rows that wait in memory because the disk is full."""
        return len(self._waiting)

    def append(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Add `row` unless the file has its step already.

        Returns:
            The row as the file has or will have it; None if its step was there already.

        Raises:
            RunError: if the file can't be written for another reason than a full disk.
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
        """Drop the rows of steps above `step`, to which the run goes back.

        The rows that stay go to a new file that replaces the old one, so that a crash leaves one or
        the other. A concurrent reader finds another file under the name.

        Raises:
            RunError: if the file can't be rewritten.
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
        """Write the waiting rows, as far as the disk has room.

        Raises:
            RunError: if the file can't be written for another reason than a full disk.
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
                    f"{self.path}: a row can't be written: {error}; repair the storage, "
                    "then run the same command again to continue"
                ) from None
            self._rows.take(line.text)
            self._written[line.kind] = line.step
            self._waiting.popleft()

    def snapshot(self) -> tuple[int, int]:
        """A new file descriptor of the file, and the file's current size in bytes.

        Those bytes never change: rows are appended, and a rewind makes a new file.
        """
        return os.dup(self._file), self._rows.bytes

    def sync(self) -> None:
        """fsync what was appended."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file; nothing if called again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Tail:
    """Reads the rows of a file that may still be growing."""

    def __init__(self, path: Path) -> None:
        """Start before the first row; the file need not exist yet."""
        self._path = path
        self._at = 0
        self._file: int | None = None  # inode of the file that is open

    def rows(self) -> Iterator[dict[str, Any]]:
        """The complete rows since the last call; all rows if the file was replaced."""
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
                if row is not None:  # the file's writer reports damaged lines
                    yield row


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `rows` as a new history, durably: the rows that a fork takes over."""
    with path.open("wb") as file:
        file.writelines(as_line(row) for row in rows)
        file.flush()
        os.fsync(file.fileno())


def as_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of the file, with its end of line."""
    plain = {key: _plain(value) for key, value in row.items()}
    return (json.dumps(plain, allow_nan=False) + "\n").encode()


def parse(line: bytes) -> dict[str, Any] | None:
    """The row of a line; None if the line was cut off or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def damaged_lines(count: int, shown: list[int]) -> str:
    """A phrase that says how many lines are damaged, with the line numbers in `shown`."""
    more = ", …" if count > len(shown) else ""
    return f"{count:,} of its lines ({', '.join(map(str, shown))}{more}) are damaged"


def is_whole(line: bytes) -> bool:
    """Whether a line is more than a half-written end: it has its newline, or is too long."""
    return line.endswith(b"\n") or len(line) == LONGEST_LINE


def _sort_key(row: Mapping[str, Any]) -> tuple[int, int]:
    """The key that orders rows: by step, and of one step in the order of `KINDS`."""
    return int(row["step"]), KINDS.index(kind_of(row))


def _plain(value: Any) -> Any:
    """`value` as JSON has it: NumPy scalars unpacked, NaN and infinity as null."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
