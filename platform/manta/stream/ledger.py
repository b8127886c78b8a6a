"""The ledger: one row a step, the proof of which samples a run consumed.

``<run>/ledger.parquet`` is a folder of part files, which pyarrow, pandas, DuckDB and Spark
read as one table. A part is written with each checkpoint and not changed afterwards, so
appending costs the same in the first hour and in the last. Parts are not compacted: a run
has as many as it has checkpoints, and listing thousands takes milliseconds.

One process writes a ledger. Whenever it dies, the folder holds whole parts that are a prefix of
the history: parts appear by rename and are removed from the end.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manta.config.errors import RunError
from manta.storage.atomic import sync_folder
from manta.storage.place import Place, copy, put
from manta.stream.chain import START, Link
from manta.stream.mix import mix64

log = logging.getLogger(__name__)
SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("first_position", pa.int64()),
        ("last_position", pa.int64()),
        ("tokens", pa.int64()),
        ("world_size", pa.int32()),
        ("attempt", pa.int32()),
        ("digest", pa.uint64()),
        ("skipped", pa.bool_()),
    ]
)
# Columns that older ledgers lack, and what their absence means.
LATER = {"skipped": False}
# Columns that say what was consumed, not by which workers: a rerun must have the same values.
PROOF = ("step", "first_position", "last_position", "digest")
DIGEST_BYTES = 8
OFFSET = np.uint64(0x9E3779B97F4A7C15)  # added to ids, as `mix64` maps 0 to 0


def digest(ids: NDArray[Any]) -> int:
    """A 64-bit digest of a multiset of sample ids.

    It is the sum, modulo 2^64, of a strong hash of each id: the order of the ids doesn't matter,
    each repetition does, and the digest of a global batch is the sum modulo 2^64 of those
    of its ranks (an additive multiset hash; Clarke et al., 2003). It detects accidents, but not
    ids that are chosen to collide.
    """
    return int(_mixed(ids).sum(dtype=np.uint64))


def digest_bytes(ids: NDArray[Any]) -> list[int]:
    """The bytes of a batch's digest, least first: numbers that ranks can sum with others.

    Sums over up to 65,536 ranks are exact in float32 too; `from_bytes` makes a digest of them.
    """
    return list(digest(ids).to_bytes(DIGEST_BYTES, "little"))


def from_bytes(summed: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Digests of global batches from sums over ranks of `digest_bytes`.

    Args:
        summed: shape (batches, DIGEST_BYTES).
    """
    places = np.uint64(1) << np.arange(0, 8 * DIGEST_BYTES, 8, dtype=np.uint64)
    totals: NDArray[np.uint64] = (summed.astype(np.uint64) * places).sum(axis=1, dtype=np.uint64)
    return totals


def digests(ids: NDArray[Any], begins: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The digest of each of several batches that lie end to end.

    Args:
        ids: sample ids, shape (samples,).
        begins: where each batch begins in `ids`, strictly ascending from 0, shape (batches,).
    """
    sums: NDArray[np.uint64] = np.add.reduceat(_mixed(ids), begins)
    return sums


def _mixed(ids: NDArray[Any]) -> NDArray[np.uint64]:
    """A strong hash of each id, as an array of one dimension."""
    return mix64(np.asarray(ids).astype(np.int64).astype(np.uint64).ravel() + OFFSET)


@dataclass(frozen=True)
class LedgerRow:
    """One step: the positions [first_position, last_position], both included.

    `tokens` is the number consumed after the step, `world_size` the ranks that took part,
    `attempt` counts the worker groups of the run, `digest` is that of the sample ids. The
    samples of a `skipped` step were delivered, but its update was not applied.
    """

    step: int
    first_position: int
    last_position: int
    tokens: int
    world_size: int
    attempt: int
    digest: int
    skipped: bool = False


class LedgerPart(NamedTuple):
    """A part file, its rows, and its link in the chain; None in parts of older versions."""

    path: Place
    table: pa.Table
    link: Link | None

    @property
    def last(self) -> LedgerRow:
        """The part's last row."""
        return LedgerRow(**self.table.slice(self.table.num_rows - 1).to_pylist()[0])

    @property
    def chain(self) -> str:
        """The chain's digest after the part."""
        return self.link.after if self.link else START

    def checked(self) -> LedgerPart:
        """This part, once its rows are found to match its link.

        Raises:
            RunError: if they don't match.
        """
        link = self.link
        if link is not None and link != Link.of(self.table, link.binding, link.before):
            raise _unreadable(self.path, "it was changed after it was written")
        return self


class _Tail(NamedTuple):
    """The newest part, its last row, and the chain's digest after it."""

    path: Place
    row: LedgerRow
    chain: str


class Ledger:
    """The ledger in `folder`, which need not exist yet; its steps have no gap.

    Args:
        folder: folder of the ledger's part files.
        binding: digest of the config and corpus that appended rows are trained by.
    """

    def __init__(self, folder: Place, binding: str = "") -> None:
        self.folder, self._binding = folder, binding
        self._tail: _Tail | None = None
        self._unsure = False  # whether a part whose writing failed may exist after all

    def append(self, rows: Sequence[LedgerRow]) -> None:
        """Add the rows of the next steps durably, as one part file; nothing if there are none.

        Raises:
            RunError: if the rows leave a gap after the ledger's end, or repeat a step.
        """
        if not rows:
            return
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
        _check_runs_on(table, "the rows to append")
        if self._unsure:
            self.trim(rows[0].step - 1)
        self._check_follows(rows[0])
        path = self.folder / _name(rows[0].step, rows[-1].step)
        link = Link.of(table, self._binding, self.chain())
        self._tail, self._unsure = None, True  # should the writing fail halfway
        self._write(link.put_on(table), path)
        self._tail, self._unsure = _Tail(path, rows[-1], link.after), False

    def trim(self, after_step: int) -> None:
        """Drop the rows of steps above `after_step`, newest first, as after a rollback."""
        self._tail = None
        for path in reversed(self._parts()):
            if _first_step(path) <= after_step:
                self._shorten(path, after_step)
                return
            path.unlink()
            _sync(self.folder)

    def read(self) -> pa.Table:
        """All rows, by step.

        Raises:
            RunError: if a part is damaged, or a step is missing or repeated.
        """
        parts = [part.checked().table for part in self.parts()]
        table = pa.concat_tables([SCHEMA.empty_table(), *parts]).combine_chunks()
        _check_runs_on(table, str(self.folder))
        return table

    def parts(self) -> Iterator[LedgerPart]:
        """The part files in order, one at a time, not `checked` and perhaps with gaps.

        Raises:
            RunError: at a part that is damaged.
        """
        for path in self._parts():
            yield _read_part(path)

    def reach(self) -> int:
        """The last step before the first part that is missing or, at the end, damaged; 0 if none.

        A warning names such parts. Only the last part is read; of those before it, the names are
        checked.
        """
        sound = list(self._sound_parts())
        while sound:
            try:
                return _read_part(sound.pop()).checked().last.step
            except RunError as error:
                log.warning("%s", error)
        return 0

    def _sound_parts(self) -> Iterator[Place]:
        """The parts up to the first gap, by the steps in their names.

        A part may have fewer steps than its name says, see `_shorten`.
        """
        end = 0
        for path in self._parts():
            first, last = _span(path)
            if first > end + 1:
                log.warning(
                    "%s: the part that begins with step %d is missing, so later parts are ignored",
                    self.folder,
                    end + 1,
                )
                return
            end = last
            yield path

    def newest(self) -> LedgerPart | None:
        """The newest part; None if there is none.

        Raises:
            RunError: if it is damaged.
        """
        parts = self._parts()
        return _read_part(parts[-1]).checked() if parts else None

    def last_step(self) -> int | None:
        """The last step in the ledger; None if it has no rows."""
        tail = self._end()
        return None if tail is None else tail.row.step

    def chain(self) -> str:
        """The chain's digest after the last row."""
        tail = self._end()
        return START if tail is None else tail.chain

    def skipped_steps(self) -> list[int]:
        """The steps whose update was not applied."""
        table = self.read()
        steps: list[int] = table.filter(table["skipped"])["step"].to_pylist()
        return steps

    def digest(self) -> str:
        """A hex digest of the samples that were consumed, in order.

        It covers each row's step, positions and digest. Parts, world sizes and attempts make no
        difference.
        """
        table = self.read()
        columns = [table[name].to_numpy().astype("<u8") for name in PROOF]
        rows = np.ascontiguousarray(np.stack(columns, axis=1))
        return hashlib.blake2b(rows.tobytes(), digest_size=32).hexdigest()

    def copy_to(self, folder: Place, after_step: int) -> None:
        """Copy the rows up to `after_step` into a new folder, as hard links where possible.

        Parts are never changed in place, so both ledgers can be continued.
        """
        if isinstance(folder, Path):
            folder.mkdir(parents=True)
        for path in self._parts():
            if _first_step(path) <= after_step:
                copy(path, folder / path.name)
        _sync(folder)
        Ledger(folder).trim(after_step)

    def _parts(self) -> list[Place]:
        return sorted(self.folder.glob("steps-*.parquet"))

    def _end(self) -> _Tail | None:
        """The ledger's end: from memory while its part exists, else from the newest part."""
        if self._tail is None or not self._tail.path.exists():
            part = self.newest()
            self._tail = _Tail(part.path, part.last, part.chain) if part else None
        return self._tail

    def _check_follows(self, row: LedgerRow) -> None:
        tail = self._end()
        if tail is None:
            return
        last = tail.row
        expected = (last.step + 1, last.last_position + 1)
        if (row.step, row.first_position) != expected:
            raise RunError(
                f"{self.folder}: step {row.step} from position {row.first_position} can't be "
                f"appended: the ledger ends with step {last.step}, position "
                f"{last.last_position}; after a rollback, trim it to the step of the checkpoint "
                "first"
            )

    def _write(self, table: pa.Table, path: Place) -> None:
        content = io.BytesIO()
        pq.write_table(table, content)
        put(path, content.getvalue())

    def _shorten(self, path: Place, after_step: int) -> None:
        """Drop the rows of steps above `after_step` from a part of which at least one row stays.

        The content is replaced first, then the name: a crash in between leaves a part whose name
        has a higher last step than its rows, never two parts with the same steps. No code relies
        on the last step in the name; in a store, which can't rename, the name stays.
        """
        _, table, link = _read_part(path)
        kept = table.filter(pc.field("step") <= after_step)
        if kept.num_rows == table.num_rows:
            return
        if link is not None:
            kept = Link.of(kept, link.binding, link.before).put_on(kept)
        self._write(kept, path)
        if isinstance(path, Path):
            os.replace(path, path.with_name(_name(_first_step(path), kept["step"][-1].as_py())))
            _sync(self.folder)


def _sync(folder: Place) -> None:
    if isinstance(folder, Path):
        sync_folder(folder)


def _name(first: int, last: int) -> str:
    return f"steps-{first:015d}-{last:015d}.parquet"


def _first_step(path: Place) -> int:
    return _span(path)[0]


def _span(path: Place) -> tuple[int, int]:
    """The first step of a part, and the last one when it was written, by the part's name."""
    _, first, last = path.name.removesuffix(".parquet").split("-")
    return int(first), int(last)


def _read_part(path: Place) -> LedgerPart:
    try:
        # From a buffer: with a path, pyarrow would turn folder names like a=1 into columns.
        table = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read()
        link = Link.on(table)
        for name, value in LATER.items():
            if name not in table.column_names:
                filled = pa.repeat(pa.scalar(value, SCHEMA.field(name).type), table.num_rows)
                table = table.append_column(name, filled)
        table = table.select(SCHEMA.names).cast(SCHEMA)
        if not table.num_rows:
            raise ValueError("it has no rows")
        return LedgerPart(path, table.replace_schema_metadata(None), link)
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Place, why: object) -> RunError:
    return RunError(
        f"{path}: can't be read as a part of the ledger: {why}; restore it from a copy, or "
        "remove it: the run then continues from a checkpoint before the part's first step"
    )


def _check_runs_on(table: pa.Table, where: str) -> None:
    """Raise RunError if a row's step or first position doesn't follow that of the row before."""
    step, first, last = (table[name].to_numpy() for name in PROOF[:3])
    wrong = np.flatnonzero((step[1:] != step[:-1] + 1) | (first[1:] != last[:-1] + 1))
    if wrong.size:
        before, after = wrong[0], wrong[0] + 1
        raise RunError(
            f"{where}: step {step[before]}, up to position {last[before]}, is followed by step "
            f"{step[after]} from position {first[after]}; a ledger has each step and each "
            "position once and in order"
        )
