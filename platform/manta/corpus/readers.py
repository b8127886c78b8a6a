"""A reader for each format: from a part of a file to its documents and problems, in order.

A reader yields one item for each row: its text, a `Problem`, or None for a blank line. It continues
after a bad row. If the rest of the file can't be read, the last item is a `Problem` without a row.
"""

from __future__ import annotations

import codecs
import io
import json
import lzma
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manta.corpus.contents import START_BYTES, codec_of, misfit
from manta.corpus.conversations import UnusableRecord
from manta.corpus.documents import Problem
from manta.corpus.records import WantedRecords, columns_of, kind_of, plain_text, record_text
from manta.corpus.sources import InputFile, open_input

Rows = Iterator[str | Problem | None]
# What to read of a row: a column of text, or a record of several columns.
Wanted: TypeAlias = str | WantedRecords
BATCH_ROWS = 1024
SHOWN_CONTENT = 500
# Format → the word for its rows in messages, and the number of the first row.
ROW_NAMES = {"text": ("line", 1), "python-stdlib": ("line", 1), "jsonl": ("line", 1)}
OTHER_ROWS = ("row", 0)


class UnusableFile(Exception):
    """A file of another format, or without the column asked for."""


def input_errors(file: InputFile) -> tuple[type[Exception], ...]:
    """Exceptions that reading `file` may raise because of the file, not by a defect of Manta."""
    if "://" in file.url:
        return (Exception,)  # each remote file system raises exceptions of its own
    return (OSError, EOFError, lzma.LZMAError, pa.ArrowException, UnusableFile)


def read(file: InputFile, kind: str, wanted: Wanted, start: int, stop: int | None) -> Rows:
    """One part of `file`, row by row; rows count from 0 within the part.

    Args:
        file: the file to read.
        kind: the source's format.
        wanted: column of the text, in formats that have columns; or type and columns of the
            records.
        start: first byte, row group or record batch.
        stop: byte, row group or record batch after the last one; None reads to the end.
    """
    try:
        if kind == "jsonl":
            yield from _jsonl(file, wanted, start, stop)
        elif kind == "parquet":
            yield from _parquet(file, wanted, start, stop)
        elif kind == "arrow":
            yield from _arrow(file, wanted, start, stop)
        else:
            yield from _text(file)
    except input_errors(file) as error:
        yield Problem(None, unreadable(error))


def unreadable(error: Exception) -> str:
    """Why a file can't be read, for people."""
    if isinstance(error, UnusableFile):
        return str(error)
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"can't be read: {(said.splitlines() or [type(error).__name__])[0]}"


def column_row_groups(file: InputFile, wanted: Wanted) -> list[int]:
    """Bytes of the columns to read in each row group of a Parquet file, from its footer.

    Raises:
        UnusableFile: if the file lacks the column.
        OSError, pa.ArrowException: if the file can't be read.
    """
    with open_input(file.url) as raw:
        metadata = pq.ParquetFile(raw).metadata
        columns = _columns_of(metadata.schema.to_arrow_schema(), wanted)
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        sizes = []
        for group in groups:
            chunks = [group.column(index) for index in range(group.num_columns)]
            sizes.append(sum(c.total_uncompressed_size for c in chunks if _is_of(c, columns)))
        return sizes


def arrow_batch_count(file: InputFile) -> int | None:
    """Number of record batches in an Arrow file; None for the stream format, which has no count.

    Raises:
        UnusableFile: if the file is of an older format.
        OSError, pa.ArrowException: if the file can't be read.
    """
    with open_input(file.url) as raw:
        head = raw.read(len(b"ARROW1"))
        if head.startswith(b"FEA1"):
            raise UnusableFile("a Feather file of version 1: write it again by a newer library")
        if head != b"ARROW1":
            return None
        raw.seek(0)
        return int(pa.ipc.open_file(raw).num_record_batches)


def codec_of_file(file: InputFile, kind: str) -> str | None:
    """The codec of a compressed file of text or JSONL, by its first bytes; None for a plain one.

    Raises:
        UnusableFile: if the file is of another format.
        OSError: if the file can't be read.
    """
    with open_input(file.url) as raw:
        head = raw.read(START_BYTES)
    codec = file.compression or codec_of(head)
    if codec is None and (reason := misfit(head, kind)):
        raise UnusableFile(reason)
    return codec


def _text(file: InputFile) -> Rows:
    """The text of a file, as one document."""
    with _decompressed(file, "text") as raw:
        content = raw.read()
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        yield content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start)
        yield Problem(line, _not_utf8(error), _shown(_line_at(content, error.start)))


def _jsonl(file: InputFile, wanted: Wanted, start: int, stop: int | None) -> Rows:
    """The lines that begin in bytes `start` to `stop`; rows are lines, blank ones too."""
    with open_input(file.url) if start else _decompressed(file, "jsonl") as raw:
        position = start
        if start:
            # The line with the byte before `start` belongs to the part before this one. If it
            # extends beyond `stop`, its end isn't searched for: otherwise each part within a long
            # line would read the line to its end.
            raw.seek(start - 1)
            before = raw.readline(-1 if stop is None else stop - start + 1)
            if not before.endswith(b"\n"):
                return
            position += len(before) - 1
        row = 0
        while stop is None or position < stop:
            line = raw.readline()
            if not line:
                break
            position += len(line)
            yield _json_row(row, line, wanted)
            row += 1


def _json_row(row: int, line: bytes, wanted: Wanted) -> str | Problem | None:
    if row == 0:
        line = line.removeprefix(codecs.BOM_UTF8)
    if not line.strip():
        return None
    try:
        value = json.loads(line.decode())
        if not isinstance(value, dict):
            raise UnusableRecord(f"not a JSON object but {kind_of(value)}")
        if isinstance(wanted, str):
            return plain_text(value, {"text": wanted})
        return record_text(value, wanted)
    except UnicodeDecodeError as error:
        reason = _not_utf8(error)
    except UnusableRecord as error:
        reason = str(error)
    except RecursionError:
        reason = "not valid JSON: nested too deeply"
    except ValueError as error:
        reason = f"not valid JSON: {error}"
    return Problem(row, reason, _shown(line))


def _parquet(file: InputFile, wanted: Wanted, start: int, stop: int | None) -> Rows:
    with open_input(file.url) as raw:
        parquet = pq.ParquetFile(raw)
        groups = list(range(start, parquet.num_row_groups if stop is None else stop))
        columns = _columns_of(parquet.schema_arrow, wanted)
        row = 0
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
            yield from _of_batch(batch, wanted, row)
            row += batch.num_rows


def _arrow(file: InputFile, wanted: Wanted, start: int, stop: int | None) -> Rows:
    with open_input(file.url) as raw:
        row = 0
        for batch in _batches(raw, start, stop):
            yield from _of_batch(batch, wanted, row)
            row += batch.num_rows


def _batches(raw: BinaryIO, start: int, stop: int | None) -> Iterator[Any]:
    if stop is None:
        yield from pa.ipc.open_stream(raw)
        return
    file = pa.ipc.open_file(raw)
    for index in range(start, stop):
        yield file.get_batch(index)


def _of_batch(batch: Any, wanted: Wanted, first: int) -> Rows:
    if isinstance(wanted, str):
        yield from _column(batch, wanted, first)
        return
    few = batch.select(_columns_of(batch.schema, wanted))
    for row, record in enumerate(few.to_pylist(), start=first):
        try:
            yield record_text(record, wanted)
        except UnusableRecord as error:
            yield Problem(row, str(error), _shown(str(record).encode("utf-8", "replace")))


def _columns_of(schema: Any, wanted: Wanted) -> list[str]:
    """The columns to read of a file.

    Raises:
        UnusableFile: if the column of text is missing.
    """
    if isinstance(wanted, str):
        path_to(schema, wanted)
        return [wanted]
    # Of a nested column, all of the outer one is read: its fields are found in each record.
    outer = [
        name if name in schema.names else name.partition(".")[0] for name in columns_of(wanted)
    ]
    return list(dict.fromkeys(name for name in outer if name in schema.names))


def _is_of(chunk: Any, columns: list[str]) -> bool:
    path = chunk.path_in_schema
    return any(path == column or path.startswith(f"{column}.") for column in columns)


def _column(batch: Any, column: str, first: int) -> Rows:
    first_index, *fields = path_to(batch.schema, column)
    values = batch.column(first_index)
    if fields:
        values = pc.struct_field(values, fields)
    if isinstance(values, pa.ExtensionArray):  # such as Arrow's own of JSON, which is text
        values = values.storage
    if not _is_text(values.type):
        raise UnusableFile(_not_text(column, values.type))
    # Read as bytes, as one row with invalid UTF-8 would make Arrow refuse all others as well.
    for row, value in enumerate(values.cast(pa.large_binary()).to_pylist(), start=first):
        if value is None:
            yield Problem(row, f"'{column}' is null")
            continue
        try:
            yield value.decode()
        except UnicodeDecodeError as error:
            yield Problem(row, _not_utf8(error), _shown(value))


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    types = pa.types
    # Some writers store UTF-8 in binary columns; rows that aren't UTF-8 are reported one by one.
    texts = types.is_string, types.is_large_string, types.is_string_view
    binaries = types.is_binary, types.is_large_binary, types.is_binary_view
    return any(fits(kind) for fits in (*texts, *binaries))


def path_to(schema: Any, column: str) -> list[int]:
    """Path to a column: its index in the schema, then the indices of nested fields.

    `column` is a name, or names of nested fields with dots between them.

    Raises:
        UnusableFile: if there is no such column.
    """
    if (count := schema.names.count(column)) > 1:
        raise UnusableFile(f"{count} columns are called '{column}': rename all but one")
    if column in schema.names:
        return [schema.names.index(column)]
    path: list[int] = []
    fields = list(schema)
    for name in column.split("."):
        names = [field.name for field in fields]
        if name not in names:
            raise UnusableFile(_no_column(column, list(_leaves(schema))))
        path.append(names.index(name))
        kind = fields[path[-1]].type
        fields = list(kind) if pa.types.is_struct(kind) else []
    return path


def _leaves(fields: Any, above: str = "") -> Iterator[str]:
    """Names of all columns; nested ones are joined by dots."""
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _leaves(field.type, f"{above}{field.name}.")
        else:
            yield above + field.name


def _not_text(column: str, kind: Any) -> str:
    remedy = ""
    if pa.types.is_struct(kind) and (leaves := list(_leaves(kind, f"{column}."))):
        remedy = f"; name a field of it, such as text_column: {leaves[0]}"
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        remedy = "; write one text a row, or join those of a row"
    return f"column '{column}' holds {kind}, not text{remedy}"


def _decompressed(file: InputFile, kind: str) -> BinaryIO:
    """The content of a file, decompressed if it is compressed.

    Raises:
        UnusableFile: if the file isn't of the format `kind`.
    """
    stream = raw = open_input(file.url)
    try:
        head = raw.read(START_BYTES)
        raw.seek(0)
        codec = file.compression or codec_of(head)
        if codec is not None:
            stream = io.BufferedReader(_opened(raw, codec))
            head = stream.peek(START_BYTES)
        if reason := misfit(head, kind):
            raise UnusableFile(reason)
    except BaseException:
        stream.close()
        raise
    return stream


def _opened(raw: BinaryIO, codec: str) -> Any:
    if codec == "xz":  # Arrow has no codec for xz
        return lzma.LZMAFile(raw)
    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)


def _no_column(column: str, names: list[str]) -> str:
    return f"no '{column}' here, only {', '.join(repr(n) for n in names[:8]) or 'nothing'}"


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not valid UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}"


def _line_at(content: bytes, offset: int) -> bytes:
    start = content.rfind(b"\n", 0, offset) + 1
    end = content.find(b"\n", offset)
    return content[start : end if end >= 0 else None]


def _shown(content: bytes) -> str:
    return content.rstrip(b"\r\n")[:SHOWN_CONTENT].decode("utf-8", "backslashreplace")
