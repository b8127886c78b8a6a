"""The filters of one preparation: what they add to its passes, and what they leave out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manta.config.corpus import SourceSection
from manta.corpus.filters.dropped import DROPPED, SCHEMA, DroppedDocument, table_of
from manta.corpus.filters.filter_chain import FilterCounts
from manta.corpus.filters.filter_plan import FilterPlan
from manta.corpus.leftovers import dropped_file, texts_file
from manta.corpus.manifest import FilterRecord
from manta.corpus.scan import Scanned, row_name
from manta.corpus.sources import InputFile
from manta.corpus.work_units import Unit, UnitPlan
from manta.storage.atomic import whole_file, write_whole

PLAN_FILE = "filters.json"
# Rows of a row group of the record.
GROUP = 10_000


class CorpusFilters:
    """The filters that are on, in the work folder of one preparation.

    Args:
        plan: the filters.
        work: the work folder.
        units: the units of the input.
        files: input files of all sources.
        sources: the config's sources.
    """

    def __init__(
        self,
        plan: FilterPlan,
        work: Path,
        units: UnitPlan,
        files: list[InputFile],
        sources: list[SourceSection],
    ):
        self._plan, self._work, self._units = plan, work, units
        self._files = files
        self._sources = [source.name for source in sources]
        self._formats = [source.format for source in sources]

    def scan_settings(self) -> dict[str, Any]:
        """What the first pass's orders have for filters; writes the file that they name."""
        if not self._plan.is_on:
            return {}
        path, content = self._work / PLAN_FILE, self._plan.content
        write_whole(path, content)
        return {"filters": str(path), "filters_sha256": hashlib.sha256(content).hexdigest()}

    def later_settings(self, unit: int) -> dict[str, Any]:
        """What a later pass's order for a unit has: the file of the texts to read."""
        return {"texts": str(texts_file(self._work, unit))} if self._plan.is_on else {}

    def counts(self, scanned: Scanned) -> dict[str, FilterCounts]:
        """What each filter did to the whole corpus, by its name, in their order."""
        found = dict[str, FilterCounts]()
        for unit in scanned.filtered_in:
            for name, counts in unit.items():
                found.setdefault(name, FilterCounts()).add(counts)
        return found

    def lost(self, scanned: Scanned) -> str:
        """How many documents the filters dropped, for a message; empty if none."""
        count = sum(counts.dropped.total() for counts in self.counts(scanned).values())
        return f", {count} that filters dropped" if count else ""

    def records(self, scanned: Scanned) -> list[FilterRecord] | None:
        """What the manifest says of each filter; None without filters."""
        if not self._plan.is_on:
            return None
        counts = self.counts(scanned)
        return [FilterRecord(name=name, **found.as_json()) for name, found in counts.items()]

    def write_dropped(self, out: Path, scanned: Scanned) -> None:
        """Write the record of what was left out, if there is anything."""
        if not any(counts.dropped for counts in self.counts(scanned).values()):
            return
        with (
            whole_file(out / DROPPED, aside=self._work) as file,
            pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer,
        ):
            held = list[DroppedDocument]()
            for unit in self._units.units:
                held += self._dropped_in(unit, scanned)
                if len(held) >= GROUP:
                    writer.write_table(table_of(held))
                    held = []
            if held:
                writer.write_table(table_of(held))

    def _dropped_in(self, unit: Unit, scanned: Scanned) -> Iterator[DroppedDocument]:
        """Documents of a unit that filters dropped, by their rows."""
        with pa.memory_map(str(dropped_file(self._work, unit.index))) as mapped:
            rows: list[dict[str, Any]] = pa.ipc.open_file(mapped).read_all().to_pylist()
        for row in rows:
            part, place = row.pop("part"), row.pop("row")
            yield DroppedDocument(
                source=self._sources[unit.source],
                file=self._files[unit.parts[part].file].shown,
                row=self._row(unit, scanned.first_rows[unit.index][part] + place),
                **row,
            )

    def _row(self, unit: Unit, number: int) -> str:
        return row_name(self._formats[unit.source], number)
