"""The hash chain over a history's rows, and marks on it.

A row's digest covers the previous digest and the row, byte for byte. So the last digest stands for
all rows and can be extended without reading them again: with a *mark* (an offset in the file and
the digest there) only the rows after it need to be read. Reading the file from its start
recomputes the chain and shows whether the rows are still those of the mark. The chain detects
accidents, not forgery: anyone can compute a new one.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, Field

Kind = Literal["training", "validation", "evaluation"]
# The digest before the first row.
START = bytes(32)
# Bytes of the longest row. A longer line is damaged, and read in pieces of this size.
LONGEST_LINE = 2**22
READ_AT_A_TIME = 2**20


class Mark(BaseModel):
    """An offset in the file up to which its content is known.

    Attributes:
        bytes: offset of the mark in the file.
        rows: number of rows up to the mark.
        chain: digest of the rows up to the mark; "" in marks of older versions.
        before: digest of the rows up to the mark without the last one.
        last_bytes: length in bytes of the last row up to the mark.
        last: kind of row → step of its last row up to the mark.
        unproven: rows up to this step were once found changed and accepted as they were; else 0.
        digest: SHA-256 of the bytes up to the mark, in marks of older versions; else "".
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
        """Whether an open file still has the mark, judged by its size and its last row before it.

        Reads that row and nothing else. A mark by an older version can't be judged this way.
        """
        if not self.bytes:
            return True
        if not self.chain or os.fstat(file).st_size < self.bytes:
            return False
        row = os.pread(file, self.last_bytes, self.bytes - self.last_bytes)
        return _linked(bytes.fromhex(self.before), row).hex() == self.chain


class RowChain:
    """The hash chain over the rows taken so far."""

    def __init__(self, begin: Mark | None = None) -> None:
        """Start before the first row, or at a mark."""
        begin = begin or Mark()
        self.bytes, self.rows = begin.bytes, begin.rows
        self._value = bytes.fromhex(begin.chain) or START
        self._before, self._last_bytes = bytes.fromhex(begin.before), begin.last_bytes

    def take(self, line: bytes) -> None:
        """Add the next row, given with its end of line."""
        self._before, self._last_bytes = self._value, len(line)
        self._value = _linked(self._value, line)
        self.bytes += len(line)
        self.rows += 1

    def mark(self, last: dict[Kind, int], unproven: int = 0) -> Mark:
        """The mark after the rows taken so far; `last` has the last step of each kind."""
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
        """Start before the first line."""
        self._mark, self._chain = mark, RowChain()
        self._whole = hashlib.sha256()
        self.right = not mark.bytes
        """Whether the lines so far start with all lines up to the mark, unchanged."""

    def take(self, line: bytes) -> None:
        """Check the next line."""
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
        """What is wrong with a file of `size` bytes, after its last line; "" if nothing is."""
        if self.right:
            return ""
        known = self._mark
        ends = ", ".join(f"{kind} row {step:,}" for kind, step in known.last.items())
        what = f"it has {size:,} bytes" if size < known.bytes else "its content differs"
        return (
            f"{name} was changed after it was written: {what}, where {known.bytes:,} bytes up to "
            f"{ends or 'its start'} were recorded: rows may be missing or have other values"
        )


def lines_in(file: Any) -> Iterator[bytes]:
    """The lines of a file that is open for reading, with their ends.

    A line that is longer than any row comes in pieces.
    """
    lines = file if hasattr(file, "peek") else io.BufferedReader(file, READ_AT_A_TIME)
    while line := lines.readline(LONGEST_LINE):
        yield line


def _linked(before: bytes, line: bytes) -> bytes:
    return hashlib.sha256(before + line).digest()
