"""Caps: no more than so many documents of a source, or with the same value of a column.

Of a group that has more, those with the lowest hashes stay: a choice at random that is the same for
the same documents, whatever else the corpus has and whoever prepares it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manta.config.errors import CorpusError
from manta.config.filters import CapSection
from manta.corpus.documents import Hashes, Problem, content_hash, sample_priority
from manta.corpus.filters.candidates import standing_documents
from manta.corpus.filters.compared_units import ComparedUnits
from manta.corpus.filters.stored_texts import read_texts
from manta.corpus.filters.words import Uint64s
from manta.corpus.work_units import rows
from manta.storage.atomic import whole_file

SCHEMA = pa.schema(
    [
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("group", pa.uint64()),
        ("value", pa.string()),
        ("start", pa.string()),
    ]
)
SHOWN_VALUE = 80  # characters


class Capped(NamedTuple):
    """A document of a unit, as the record shows it.

    Attributes:
        part: index of the document's part of the unit.
        row: number of the row in the part.
        value: start of the value of the column; the source's name without a column.
        start: start of the document's text.
    """

    part: int
    row: int
    value: str
    start: str


def over_cap(
    groups: Uint64s, hashes: Hashes, live: NDArray[np.bool_], most: int
) -> NDArray[np.int64]:
    """Documents beyond the first `most` of their group, by hash, ascending.

    Args:
        groups: each document's group; documents of group 0 have no cap.
        hashes: each document's hash.
        live: whether each document counts.
        most: most documents of a group.
    """
    places = np.flatnonzero(live & (groups != 0))
    order = places[np.lexsort((sample_priority(hashes[places]), groups[places]))]
    grouped = groups[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = grouped[1:] != grouped[:-1]
    first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    over: NDArray[np.int64] = np.sort(order[np.arange(len(order)) - first >= most])
    return over


def groups_file(work: Path, unit: int, cap: int) -> Path:
    """File of the groups of a unit's documents by the config's cap of this index."""
    return work / f"unit-{unit:06d}.groups-{cap}.arrow"


def write_groups(order: dict[str, Any]) -> dict[str, Any]:
    """The task of one unit: write the group of each document.

    `order` has `texts` (file), `groups` (file to write), `values` (what to read of a row for its
    value; None for the source), and `source` (its name), beside what `work_units.order` gives.
    """
    with whole_file(Path(order["groups"])) as file, pa.ipc.new_file(file, SCHEMA) as writer:
        found = list(_groups(order))
        writer.write_batch(pa.RecordBatch.from_pylist(found, schema=SCHEMA))
    return {"unit": order["unit"], "bytes": order["bytes"]}


def _groups(order: dict[str, Any]) -> Iterator[dict[str, Any]]:
    values = _values(order)
    for standing, _ in standing_documents(order["texts"]):
        value = next(values)
        group = int.from_bytes(content_hash(value.encode())[:8]) if value is not None else 0
        shown = None if value is None else value[:SHOWN_VALUE]
        yield {**standing._asdict(), "group": group, "value": shown}


def _values(order: dict[str, Any]) -> Iterator[str | None]:
    """The value of each document of a unit; None without one."""
    texts = read_texts(order["texts"])
    if order["values"] is None:
        yield from (order["source"] for _, text in texts if text is not None)
        return
    read = rows({name: order[name] for name in ("parts", "format")} | {"wanted": order["values"]})
    for (_, text), (part, value) in zip_longest(texts, read, fillvalue=(0, None)):
        if isinstance(value, Problem) and value.row is None:
            file = order["parts"][part][0][2]
            raise CorpusError(f"filters.caps: {file}: {value.reason}")
        if text is not None:
            yield value if isinstance(value, str) else None


class Caps:
    """The documents that exceed a cap.

    Args:
        section: the config's section.
        number: index of the section in the config.
        units: units that the documents are in; their orders have `values` and `source`.
    """

    def __init__(
        self,
        section: CapSection,
        number: int,
        units: ComparedUnits,
    ):
        self._section, self._number, self._work = section, number, units.work
        self._begins, self._order, self._run = units.begins, units.order, units.run

    def found(self, live: NDArray[np.bool_], hashes: Hashes) -> NDArray[np.int64]:
        """The documents among those that are `live` that exceed the cap, ascending.

        Raises:
            CorpusError: if no document has a value in the column.
        """
        units = range(len(self._begins) - 1)
        orders = [
            self._order(unit) | {"groups": str(groups_file(self._work, unit, self._number))}
            for unit in units
        ]
        for _ in self._run(write_groups, orders):
            pass
        groups = np.empty(len(live), np.uint64)
        for unit in units:
            span = slice(int(self._begins[unit]), int(self._begins[unit + 1]))
            groups[span] = _opened(self._work, unit, self._number).column("group").to_numpy()
        if live.any() and not groups[live].any():
            raise CorpusError(
                f"filters.caps: '{self._section.name}': no document has a text in the column "
                f"'{self._section.column}': correct its name"
            )
        return over_cap(groups, hashes, live, self._section.documents)

    def shown(self, document: int) -> Capped:
        """A document, given by its index in canonical order, for the record."""
        unit = int(np.searchsorted(self._begins, document, side="right")) - 1
        batch = _opened(self._work, unit, self._number)
        row = batch.slice(document - int(self._begins[unit]), 1).to_pylist()[0]
        return Capped(row["part"], row["row"], row["value"], row["start"])


def _opened(work: Path, unit: int, cap: int) -> Any:
    path = groups_file(work, unit, cap)
    status = path.stat()
    return _mapped(str(path), status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _mapped(path: str, inode: int, modified: int) -> Any:
    return pa.ipc.open_file(pa.memory_map(path)).get_batch(0)
