"""The chain of a history: a digest that goes from row to row, and marks on it.

A row's digest covers the one before it and the row, byte for byte. So the digest of the last row
stands for all of them, and can be carried on without reading any again: who knows a *mark*, a
place in the file with the digest there, needs to read only what comes after it. Whoever reads the
file from its begin recomputes the chain, and sees whether the rows are still those of the mark.
It detects accidents; who wants to deceive can make it anew.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, Field

Kind = Literal["training", "validation"]
# Before the first row.
START = bytes(32)
# No row is longer; of a line that is, so much at a time is in memory.
LONGEST_LINE = 2**22
READ_AT_A_TIME = 2**20


class Mark(BaseModel):
    """A place in the file up to which its content is known.

    Attributes:
        bytes: of the file up to here.
        rows: in them.
        chain: the digest of the rows up to here; "" in marks of older versions.
        before: the chain's digest before the last of these rows.
        last_bytes: bytes of the last of these rows.
        last: the last step of each kind.
        unproven: rows up to this step were found changed once, and taken as they were found.
        digest: in marks of older versions the SHA-256 of the bytes up to here, or "".
    """

    bytes: int = 0
    rows: int = 0
    chain: str = ""
    before: str = ""
    last_bytes: int = 0
    last: dict[Kind, int] = Field(default_factory=dict)
    unproven: int = 0
    digest: str = ""

    def is_in(self, file: int) -> bool:
        """Whether an open file can be gone on with from here, by its size and the row before.

        Reads that row and nothing else. Of a mark by an older version it can't be told so.
        """
        if not self.bytes:
            return True
        if not self.chain or os.fstat(file).st_size < self.bytes:
            return False
        row = os.pread(file, self.last_bytes, self.bytes - self.last_bytes)
        return _linked(bytes.fromhex(self.before), row).hex() == self.chain


class RowChain:
    """The chain of the rows that were taken so far."""

    def __init__(self, begin: Mark | None = None) -> None:
        """Begin before the first row, or at a mark."""
        begin = begin or Mark()
        self.bytes, self.rows = begin.bytes, begin.rows
        self._value = bytes.fromhex(begin.chain) or START
        self._before, self._last_bytes = bytes.fromhex(begin.before), begin.last_bytes

    def take(self, line: bytes) -> None:
        """The next row, with its end of line."""
        self._before, self._last_bytes = self._value, len(line)
        self._value = _linked(self._value, line)
        self.bytes += len(line)
        self.rows += 1

    def mark(self, last: dict[Kind, int], unproven: int = 0) -> Mark:
        """The mark after the last row, whose steps are `last`."""
        return Mark(
            bytes=self.bytes,
            rows=self.rows,
            chain=self._value.hex(),
            before=self._before.hex(),
            last_bytes=self._last_bytes,
            last=last,
            unproven=unproven,
        )


class MarkCheck:
    """Takes the lines of a file from the first on, and tells whether a mark is in it."""

    def __init__(self, mark: Mark) -> None:
        """Before the first line."""
        self._mark, self._chain = mark, RowChain()
        self._whole = hashlib.sha256()
        self.right = not mark.bytes
        """Whether the lines so far begin with all those of the mark, as they were."""

    def take(self, line: bytes) -> None:
        """The next line."""
        if self._chain.bytes >= self._mark.bytes:
            return
        if self._mark.chain:
            self._chain.take(line)
        else:
            self._whole.update(line)
            self._chain.bytes += len(line)
        if self._chain.bytes == self._mark.bytes:
            self.right = self._fits()

    def _fits(self) -> bool:
        if self._mark.chain:
            return self._chain.mark({}).chain == self._mark.chain
        return self._mark.digest in ("", self._whole.hexdigest())

    def problem(self, name: str, size: int) -> str:
        """What is wrong with a file of `size` bytes, once all was taken; "" if nothing is."""
        if self.right:
            return ""
        known = self._mark
        ends = ", ".join(f"{kind} row {step:,}" for kind, step in known.last.items())
        what = f"it has {size:,} bytes" if size < known.bytes else "its content is another"
        return (
            f"{name} was changed after it was written: {what}, where {known.bytes:,} bytes up to "
            f"{ends or 'its begin'} were recorded: rows may be missing, or have other values"
        )


def lines_in(file: Any) -> Iterator[bytes]:
    """The lines of a file that is open for reading, with their ends.

    Of a line that is longer than any row it gives one piece after the other.
    """
    lines = file if hasattr(file, "peek") else io.BufferedReader(file, READ_AT_A_TIME)
    while line := lines.readline(LONGEST_LINE):
        yield line


def _linked(before: bytes, line: bytes) -> bytes:
    return hashlib.sha256(before + line).digest()
