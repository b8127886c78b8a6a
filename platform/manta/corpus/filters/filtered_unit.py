"""Filtering of one unit in the first pass: its rows in, texts or problems out, and a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from manta.config.filters import NearDuplicatesSection
from manta.corpus.documents import Problem, content_hash
from manta.corpus.filters.boilerplate import stored_boilerplate
from manta.corpus.filters.dropped import Examples
from manta.corpus.filters.filter_chain import Chain, FilterCounts, stored_chain
from manta.corpus.filters.minhash import banding, sketches
from manta.corpus.filters.own_filter import OwnFilterError
from manta.corpus.filters.record_filter import said_in
from manta.corpus.filters.stored_texts import write_texts
from manta.corpus.leftovers import checksum, dropped_file, sketches_file, texts_file
from manta.storage.atomic import whole_file

# Dropped documents of a unit: filter, rule, score, part, row in the part, hash, start of the text.
RECORD = pa.schema(
    [
        ("filter", pa.string()),
        ("reason", pa.string()),
        ("score", pa.float64()),
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("doc_id", pa.string()),
        ("text", pa.string()),
    ]
)


class UnitFilter:
    """What filters make of the rows of one unit.

    Attributes:
        chain: the filters.
    """

    def __init__(self, chain: Chain):
        self.chain = chain
        self._rows: list[tuple[int, str | None]] = []
        self._dropped: list[dict[str, Any]] = []
        self._examples = Examples()

    def judged(self, part: int, place: int, row: str | Problem | None) -> str | Problem | None:
        """A row after all filters: its text, None if it was dropped, or why it can't be judged.

        Args:
            part: index of the row's part.
            place: number of the row in the part.
            row: text, problem or blank that was read.
        """
        found = row
        if isinstance(row, str) and row.strip():
            found = self._judged(part, place, row)
        is_document = isinstance(found, str) and bool(found.strip())
        self._rows.append((part, found if isinstance(found, str) and is_document else None))
        return found

    def _judged(self, part: int, place: int, text: str) -> str | Problem | None:
        try:
            verdict = self.chain.judge(text)
        except OwnFilterError as error:
            return Problem(place, str(error))
        if isinstance(verdict, str):
            return verdict
        self._dropped.append(
            {
                "filter": verdict.filter,
                "reason": verdict.reason,
                "score": verdict.score,
                "part": part,
                "row": place,
                "doc_id": content_hash(verdict.text.encode()).hex(),
                "text": self._examples.start_of(verdict.filter, verdict.reason, verdict.text),
            }
        )
        return None

    @property
    def documents(self) -> list[str]:
        """The documents that were kept, in order."""
        return [text for _, text in self._rows if text is not None]

    def write(self, work: Path, order: dict[str, Any]) -> dict[str, Any]:
        """Write what was kept and what was dropped.

        Returns:
            What each filter counted, and the files with their checksums.
        """
        texts, dropped = texts_file(work, order["unit"]), dropped_file(work, order["unit"])
        write_texts(texts, self._rows)
        table = pa.Table.from_pylist(self._dropped, schema=RECORD)
        with whole_file(dropped) as file, pa.ipc.new_file(file, RECORD) as writer:
            writer.write_table(table)
        files = [texts, dropped]
        if "near_duplicates" in order:
            files.append(self._write_sketches(work, order))
        return {
            "counts": {name: counts.as_json() for name, counts in self.chain.counts.items()},
            "files": {path.name: checksum(path) for path in files},
        }

    def _write_sketches(self, work: Path, order: dict[str, Any]) -> Path:
        section = NearDuplicatesSection.model_validate(order["near_duplicates"])
        texts = [said_in(one) for one in self.documents] if order["records"] else self.documents
        found = sketches(texts, section.words, banding(section.threshold))
        path = sketches_file(work, order["unit"])
        with whole_file(path) as file:
            np.save(file, found)
        return path


def unit_filter(order: dict[str, Any]) -> UnitFilter | None:
    """The filtering that an order asks for; None if it asks for none."""
    if "filters" not in order:
        return None
    filters = stored_chain(order["filters"], order["filters_sha256"]).filters
    if "boilerplate" in order:
        filters = [stored_boilerplate(*order["boilerplate"]), *filters]
    return UnitFilter(Chain(filters))


def counts_of(written: dict[str, Any] | None) -> dict[str, FilterCounts]:
    """What each filter counted in a unit, of what `UnitFilter.write` returned."""
    counts = written["counts"] if written else {}
    return {name: FilterCounts.from_json(content) for name, content in counts.items()}
