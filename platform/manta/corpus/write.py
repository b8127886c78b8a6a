"""Write a corpus of any format from tables, for data that isn't text."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

import manta
from manta.config.errors import CorpusError
from manta.corpus.documents import SPLITS
from manta.corpus.manifest import MANIFEST, OURS, Counts, Manifest, Shard, Split
from manta.corpus.workspace import LOCK, shard_name
from manta.sample import shard_file
from manta.sample.format import Format
from manta.storage.atomic import sync_folder, unwritable, whole_file

# An Arrow table or batch, or an iterable of these or of rows as mappings from column to value.
Rows: TypeAlias = "pa.Table | pa.RecordBatch | Iterable[Any]"
SHARD_BYTES = 256 * 2**20
# Number of rows given as mappings that become one batch.
ROWS_AT_ONCE = 4096


def write_corpus(
    folder: str | Path,
    data: Mapping[Split, Rows | Mapping[str, Rows]],
    form: Format,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Write a corpus: shards, checksums, manifest and fingerprint, whole or not at all.

    It is written beside `folder` and renamed at the end. The same rows in the same order make the
    same corpus, on which runs have the same sample order; if it exists already, nothing changes.

    Args:
        folder: the corpus's folder.
        data: rows of each split (train, validation, test), by the name of their source, or rows
            alone if there is one source. Rows are an Arrow table or batch, or any iterable of
            these or of mappings from column to value, which is read once. Rows with a column
            ``doc_id`` (text) keep it; others are numbered.
        form: format of the samples: its schema names the columns.
        shard_bytes: size at which a shard is closed.

    Raises:
        CorpusError: if rows don't fit the schema, there is no row to train on, or `folder` holds
            something else.
    """
    out = Path(folder).expanduser().absolute()
    _check_format(out, form)
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise CorpusError(f"{out}: the folder has files that are no corpus; choose another folder")
    by_source: dict[Split, dict[str, Rows]] = {
        split: dict(rows) if isinstance(rows, Mapping) else {"data": rows}
        for split, rows in data.items()
    }
    _check_splits(out, by_source)
    with _beside(out) as work:
        writer = _Writer(work, form, _sources(by_source), shard_bytes)
        for split in SPLITS:
            for source, rows in by_source.get(split, {}).items():
                writer.write(split, source, rows)
        manifest = writer.manifest()
        if not manifest.tokens_of("train"):
            raise CorpusError(f"{out}: the train split has no rows; give some")
        manifest.write(work)
        return _put(work, out, manifest)


def _check_splits(out: Path, data: Mapping[Split, Any]) -> None:
    if unknown := [split for split in data if split not in SPLITS]:
        raise CorpusError(f"{out}: no split '{unknown[0]}'; use {', '.join(SPLITS)}")


def _check_format(out: Path, form: Format) -> None:
    if form.name in OURS:
        raise CorpusError(
            f"{out}: the format '{form.name}' is Manta's own; make such a corpus with 'manta "
            "prepare', or give your format another name"
        )
    for name in ("doc_id", "source"):
        if name in form.schema.names:
            raise CorpusError(
                f"{out}: format '{form.name}': a column can't be called '{name}', as each shard "
                "has such a column of Manta's; rename it"
            )


def _sources(data: Mapping[Split, Mapping[str, Rows]]) -> list[str]:
    return list(dict.fromkeys(source for split in SPLITS for source in data.get(split, {})))


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, locked for this process and removed after the block."""
    work = out.with_name(f".{out.name}.writing")
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / LOCK).open("w")
    except OSError as error:
        raise unwritable(work, error) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CorpusError(
                f"{out}: another process is writing this corpus; wait until it ends"
            ) from None
        for left in work.iterdir():  # files of an attempt that was killed
            if left.name != LOCK:
                left.unlink()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _put(work: Path, out: Path, manifest: Manifest) -> Manifest:
    """Rename the written corpus to its final name, unless the same corpus exists already."""
    if (out / MANIFEST).exists():
        there = Manifest.read(out)
        if there.fingerprint != manifest.fingerprint:
            raise CorpusError(
                f"{out}: holds another corpus (fingerprint {there.fingerprint[:12]}); a corpus is "
                "never overwritten: choose another folder, or remove this corpus"
            )
        return there
    (work / LOCK).unlink()
    try:
        work.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise unwritable(out, error) from None
    return manifest


class _Writer:
    """Writes the rows of one source after another, and counts them."""

    def __init__(self, work: Path, form: Format, sources: list[str], shard_bytes: int):
        self._work, self._form, self._sources = work, form, sources
        self._shard_bytes = shard_bytes
        self._shards: list[Shard] = []
        self._counts: dict[Split, dict[str, Counts]] = {
            split: dict.fromkeys(sources, Counts(documents=0, tokens=0)) for split in SPLITS
        }

    def write(self, split: Split, source: str, rows: Rows) -> None:
        """Write the shards of one source's rows of a split."""
        held: list[pa.Table] = []
        held_bytes = count = 0
        for table in _tables(rows, self._form.schema, f"{split} rows of '{source}'"):
            held.append(_numbered(table, f"{split}/{source}", count))
            held_bytes += held[-1].nbytes
            count += table.num_rows
            if held_bytes >= self._shard_bytes:
                self._close(split, source, held)
                held, held_bytes = [], 0
        if held:
            self._close(split, source, held)
        self._counts[split][source] = Counts(documents=count, tokens=count)

    def manifest(self) -> Manifest:
        """The manifest of what was written."""
        return Manifest(
            manta_version=manta.__version__,
            sample=self._form.name,
            config={},
            counts=self._counts,
            dropped={},
            shards=self._shards,
        ).sealed()

    def _close(self, split: Split, source: str, tables: list[pa.Table]) -> None:
        whole = pa.concat_tables(tables).combine_chunks()
        if not whole.num_rows:
            return
        (rows,) = whole.to_batches(max_chunksize=whole.num_rows)
        schema = self._form.schema
        table = shard_file.batch(
            [rows.column(name) for name in schema.names],
            rows.column("doc_id"),
            self._sources.index(source),
            self._sources,
            schema,
        )
        name = shard_name(split, sum(shard.split == split for shard in self._shards))
        with whole_file(self._work / name) as file:
            size, sha256 = shard_file.write(file, table)
        self._shards.append(
            Shard(
                file=name,
                split=split,
                documents=table.num_rows,
                tokens=table.num_rows,
                bytes=size,
                sha256=sha256,
                source=source,
            )
        )


def _tables(rows: Rows, schema: pa.Schema, what: str) -> Iterator[pa.Table]:
    """The rows as tables with the schema's columns, and with doc_id if they have it."""
    single = isinstance(rows, pa.Table | pa.RecordBatch)
    pending = iter([rows] if single else rows)
    for first in pending:
        if isinstance(first, pa.Table | pa.RecordBatch):
            yield _fitted(first, schema, what)
        else:
            listed = [first, *islice(pending, ROWS_AT_ONCE - 1)]
            yield _fitted(_of_mappings(listed, schema, what), schema, what)


def _of_mappings(rows: list[Any], schema: pa.Schema, what: str) -> pa.Table:
    named = [*schema, pa.field("doc_id", pa.string())]
    try:
        fields = [field for field in named if field.name in rows[0] or field.name != "doc_id"]
        columns = {f.name: pa.array([row[f.name] for row in rows], f.type) for f in fields}
    except (KeyError, TypeError, pa.ArrowException) as error:
        raise CorpusError(f"{what}: a row doesn't fit the format's schema: {error!r}") from None
    return pa.table(columns)


def _fitted(table: Any, schema: pa.Schema, what: str) -> pa.Table:
    """The columns of a table that the schema has, cast to its types."""
    if missing := [name for name in schema.names if name not in table.schema.names]:
        raise CorpusError(
            f"{what}: the column '{missing[0]}' is missing; there are "
            f"{', '.join(table.schema.names)}"
        )
    wanted = list(schema)
    if "doc_id" in table.schema.names:
        wanted.append(pa.field("doc_id", pa.string()))
    columns = {}
    for field in wanted:
        column = table.column(field.name)
        if column.null_count:
            raise CorpusError(
                f"{what}: column '{field.name}' has rows without a value; fill or remove these rows"
            )
        try:
            columns[field.name] = column.cast(field.type)
        except pa.ArrowException as error:
            raise CorpusError(f"{what}: column '{field.name}': {error}") from None
    return pa.table(columns)


def _numbered(table: pa.Table, prefix: str, first: int) -> pa.Table:
    if "doc_id" in table.column_names:
        return table
    ids = [f"{prefix}/{number}" for number in range(first, first + table.num_rows)]
    return table.append_column("doc_id", pa.array(ids, pa.string()))
