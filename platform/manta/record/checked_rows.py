"""Read all rows of a run, and check that they are still those that its record has a digest of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from manta.record.history import MOST_SHOWN, damaged_lines, is_whole, parse
from manta.record.row_chain import Mark, MarkCheck, lines_in
from manta.record.run_state import read_state_if_any
from manta.storage.place import Place
from manta.storage.run_folder import METRICS

T = TypeVar("T")
# A rewind replaces the file; a reader that meets one starts again, at most this often.
TRIES = 3


class Line(NamedTuple):
    """A line of the file, its number, and its row; None if the line is no valid row."""

    number: int
    content: bytes
    row: dict[str, Any] | None


class RowReader:
    """Reads a run's rows from the first on, in bounded memory."""

    def __init__(self, run: Place, mark: Mark) -> None:
        """Start before the first row.

        Args:
            run: the run's folder, or its place in a store.
            mark: the history's `Mark` in the run's record, to compare the rows with.
        """
        self._path, self._check, self._size = run / METRICS, MarkCheck(mark), 0
        self.unproven = mark.unproven
        self._damaged = 0
        self._shown: list[int] = []

    def lines(self) -> Iterator[Line]:
        """The lines, without an unfinished last one."""
        if not self._path.exists():
            return
        with _opened(self._path) as file:
            for number, line in enumerate(lines_in(file), 1):
                self._size += len(line)
                self._check.take(line)
                row = parse(line)
                if row is None and is_whole(line):
                    self._damaged += 1
                    self._shown += [number] if self._damaged <= MOST_SHOWN else []
                if is_whole(line):
                    yield Line(number, line, row)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows, without lines that are no valid rows."""
        return (line.row for line in self.lines() if line.row is not None)

    def problem(self) -> str:
        """What is wrong with the rows, after all were read; "" if nothing is."""
        problem = self._check.problem(METRICS, self._size)
        if self._damaged:
            damaged = damaged_lines(self._damaged, self._shown)
            problem = f"{problem}; {damaged}" if problem else f"{METRICS}: {damaged}"
        return problem


def read_checked(run: Place, use: Callable[[RowReader], T]) -> tuple[T, str]:
    """The result of `use` on a run's rows, and what is wrong with the rows, or "".

    Raises:
        RunError: if the run's record can't be understood.
    """
    for _ in range(TRIES):
        mark = _mark_of(run)
        reader = RowReader(run, mark)
        found = use(reader)
        problem = reader.problem()
        if not problem or _mark_of(run) == mark:
            break
    return found, problem


def _mark_of(run: Place) -> Mark:
    state = read_state_if_any(run)
    return Mark() if state is None else state.history


def _opened(path: Place) -> BinaryIO:
    file: BinaryIO = path.open("rb") if isinstance(path, Path) else path.open_input()
    return file
