"""Cut the input into work units, by the input files and the config alone.

A *part* is a piece of one file that can be read by itself: the whole file, or a range of bytes
(the lines that begin in it), of row groups, or of record batches. A *unit* is a series of
consecutive parts of one source. Units don't depend on the number of workers, and so neither does
the order of documents (the *canonical order*).
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from manta.config.corpus import CorpusConfig, SourceSection
from manta.corpus.documents import Problem, content_hash
from manta.corpus.filters.stored_texts import read_texts
from manta.corpus.progress_bar import short
from manta.corpus.readers import (
    Wanted,
    arrow_batch_count,
    codec_of_file,
    column_row_groups,
    input_errors,
    read,
    unreadable,
)
from manta.corpus.records import WantedRange
from manta.corpus.sources import InputFile

# A worker tokenizes a unit in about a second: long compared to its scheduling, short compared to
# the whole. A large corpus has larger units, so that their number stays in the thousands; the bound
# keeps a worker's memory to some hundreds of MB.
MIN_UNIT_BYTES = 1 << 20
MAX_UNIT_BYTES = 64 << 20
MANY_UNITS = 2048
# Approximate bytes of text in a token. A shard has whole units, so a unit must not be larger than
# a shard.
BYTES_PER_TOKEN = 4
LISTING_THREADS = 16
SHOWN_FILES = 3


@dataclass(frozen=True)
class FilePart:
    """A piece of a file: `start` to `stop` in bytes, row groups or batches; None: to the end.

    Attributes:
        file: index in the list of input files.
        bytes: approximate size of the part's text.
    """

    file: int
    start: int
    stop: int | None
    bytes: int


@dataclass(frozen=True)
class Unit:
    """The parts of one source, in canonical order, that one task reads."""

    index: int
    source: int
    parts: tuple[FilePart, ...]

    @property
    def bytes(self) -> int:
        """Approximate size of the unit's text."""
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True)
class UnitPlan:
    """All units, and the problems of files that could not be cut into parts."""

    units: list[Unit]
    problems: list[tuple[int, Problem]]


def plan(config: CorpusConfig, files: list[InputFile]) -> UnitPlan:
    """Cut `files` into units."""
    unit_bytes = _unit_bytes(config, sum(file.size for file in files))

    def cut(index: int) -> list[FilePart] | Problem:
        source = config.sources[files[index].source]
        try:
            return list(_parts(index, files[index], source, read_of(config, source), unit_bytes))
        except input_errors(files[index]) as error:
            return Problem(None, unreadable(error))

    # Footers of Parquet and Arrow files are read here, perhaps over the network, so many at once.
    with ThreadPoolExecutor(LISTING_THREADS) as threads:
        results = list(threads.map(cut, range(len(files))))
    problems = [(i, result) for i, result in enumerate(results) if isinstance(result, Problem)]
    parts = [part for result in results if isinstance(result, list) for part in result]
    return UnitPlan(_pack(parts, files, unit_bytes), problems)


def read_of(config: CorpusConfig, source: SourceSection, column: str | None = None) -> Wanted:
    """What to read of a row of a source: its document, or the text in another column."""
    wanted = column or _read_of(config, source)
    if source.only is None:
        return wanted
    if isinstance(wanted, str):
        wanted = {"records": "texts", "columns": {"text": wanted}}
    only = source.only
    within: WantedRange = {
        "column": only.column,
        "at_least": only.at_least,
        "below": only.below,
    }
    return {**wanted, "only": within}


def _read_of(config: CorpusConfig, source: SourceSection) -> Wanted:
    if config.labelled is not None:
        columns = {"text": config.labelled.text, "label": config.labelled.label}
        return {"records": config.labelled.labels, "columns": columns}
    if config.chat is None:
        return source.text_column
    columns = {str(name): theirs for name, theirs in config.chat.columns.items()}
    return {"records": config.chat.records, "columns": columns}


def order(unit: Unit, files: list[InputFile], config: CorpusConfig) -> dict[str, Any]:
    """The order for a worker to read `unit`, as plain JSON values."""
    source = config.sources[unit.source]
    return {
        "unit": unit.index,
        "bytes": unit.bytes,
        "format": source.format,
        "wanted": read_of(config, source),
        "parts": [
            [dataclasses.astuple(files[part.file]), part.start, part.stop] for part in unit.parts
        ],
    }


def described(order: dict[str, Any]) -> str:
    """The input of an order, for people: its files, and its largest document if known."""
    names = list(dict.fromkeys(file[2] for file, _, _ in order["parts"]))
    shown = ", ".join(names[:SHOWN_FILES])
    if len(names) > SHOWN_FILES:
        shown += f" and {len(names) - SHOWN_FILES} more"
    largest = order.get("largest")
    of_it = f"; its largest document has {short(largest)}B" if largest else ""
    return f"a piece of {short(order['bytes'])}B of {shown}{of_it}"


def rows(order: dict[str, Any]) -> Iterator[tuple[int, str | Problem | None]]:
    """Each row of a unit: the index of its part and what was read, or what filters left of it."""
    if "texts" in order:
        yield from read_texts(order["texts"])
        return
    for index, (file, start, stop) in enumerate(order["parts"]):
        for row in read(InputFile(*file), order["format"], order["wanted"], start, stop):
            yield index, row


def identified(row: str | Problem | None) -> tuple[bytes, int] | None:
    """Hash and size in bytes of a row that is a document; None for other rows.

    A text with only white space is no document.
    """
    if not isinstance(row, str) or not row.strip():
        return None
    content = row.encode()
    return content_hash(content), len(content)


def records_left(
    order: dict[str, Any], identities: list[bytes]
) -> Iterator[tuple[bytes, str, tuple[int, int]]]:
    """The records of a unit that are no duplicates: hash, text, and place: part and row in it.

    Args:
        order: the unit's order, with the numbers of the `duplicates`.
        identities: list that the hashes of all records are added to.
    """
    left_out, rows_before = set(order["duplicates"]), defaultdict[int, int](int)
    for part, row in rows(order):
        place = rows_before[part]
        rows_before[part] += 1
        identity = identified(row)
        if identity is None:
            continue
        identities.append(identity[0])
        if len(identities) - 1 not in left_out:
            yield identity[0], str(row), (part, place)


def _unit_bytes(config: CorpusConfig, total: int) -> int:
    wanted = min(max(total // MANY_UNITS, MIN_UNIT_BYTES), MAX_UNIT_BYTES)
    return max(1, min(wanted, config.shard_tokens * BYTES_PER_TOKEN))


def _parts(
    index: int, file: InputFile, source: SourceSection, wanted: Wanted, unit_bytes: int
) -> Iterator[FilePart]:
    # A size of 0 may mean that the store doesn't tell the size.
    cut = source.format == "jsonl" and file.compression is None and file.size > 0
    if cut and file.size > unit_bytes:
        cut = codec_of_file(file, source.format) is None
    if cut:
        for start in range(0, file.size, unit_bytes):
            stop = min(start + unit_bytes, file.size)
            yield FilePart(index, start, stop, stop - start)
    elif source.format == "parquet":
        for group, size in enumerate(column_row_groups(file, wanted)):
            yield FilePart(index, group, group + 1, size)
    elif source.format == "arrow":
        count = arrow_batch_count(file)
        if count is None:
            yield FilePart(index, 0, None, file.size)
        for batch in range(count or 0):
            yield FilePart(index, batch, batch + 1, file.size // (count or 1))
    else:
        yield FilePart(index, 0, None, file.size)


def _pack(parts: list[FilePart], files: list[InputFile], unit_bytes: int) -> list[Unit]:
    """Fill units with consecutive parts of one source, up to `unit_bytes` each."""
    units: list[Unit] = []
    held: list[FilePart] = []

    def close() -> None:
        if held:
            units.append(Unit(len(units), files[held[0].file].source, tuple(held)))
            held.clear()

    for part in parts:
        if held and (
            files[held[0].file].source != files[part.file].source
            or sum(p.bytes for p in held) + part.bytes > unit_bytes
        ):
            close()
        held.append(part)
    close()
    return units
