"""The filters of one preparation: what they add to its passes, and what they leave out."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manta.config.corpus import CorpusConfig
from manta.config.filters import CapSection
from manta.corpus import work_units, worker_pool
from manta.corpus.documents import CAPPED, CONTAMINATED, KEPT, NEAR_DUPLICATE, split_of
from manta.corpus.filters.boilerplate import (
    boilerplate_in,
    count_lines,
    is_counted,
    lines_file,
)
from manta.corpus.filters.candidates import Candidates, opened
from manta.corpus.filters.caps import Caps
from manta.corpus.filters.compared_units import ComparedUnits
from manta.corpus.filters.contamination import Decontamination, Overlap
from manta.corpus.filters.dropped import DROPPED, SCHEMA, DroppedDocument, Examples, table_of
from manta.corpus.filters.evaluations import too_short
from manta.corpus.filters.filter_chain import FilterCounts
from manta.corpus.filters.filter_plan import FilterPlan
from manta.corpus.filters.near_duplicates import NearDuplicates, Search
from manta.corpus.leftovers import checksum, dropped_file, texts_file
from manta.corpus.manifest import FilterRecord
from manta.corpus.progress_bar import PrepareProgress
from manta.corpus.scan import Scanned, row_name
from manta.corpus.sources import InputFile
from manta.corpus.work_units import Unit, UnitPlan
from manta.corpus.worker_pool import Run
from manta.storage.atomic import whole_file, write_whole

OVER_CAP = "over the cap"
NEAR_REASONS = ("of another split", "of another source", "of its source")
# What the progress bar calls the passes over candidates, pairs, the test split, and all others.
PHASES = {
    "count_lines": "lines",
    "write_candidates": "gathering",
    "compare_pairs": "comparing",
    "write_ngrams": "test split",
    "find_overlaps": "overlaps",
    "write_groups": "grouping",
}
PLAN_FILE = "filters.json"
# Rows of a row group of the record.
GROUP = 10_000


def _shown(bar: PrepareProgress) -> Run:
    """Does a task for each of some orders, and shows how far that is."""

    def run(task: worker_pool.Task, orders: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        if len(orders) < 2:  # too quick for a bar
            yield from worker_pool.run(task, orders)
            return
        phase = bar.phase(PHASES[task.__name__], sum(order["bytes"] for order in orders))
        for done in worker_pool.run(task, orders):
            phase.advance(done["bytes"], 0)
            yield done
        phase.done()

    return run


class CorpusFilters:
    """The filters that are on, in the work folder of one preparation.

    Args:
        plan: the filters.
        work: the work folder.
        units: the units of the input.
        files: input files of all sources.
        config: the corpus's config.
    """

    def __init__(
        self,
        plan: FilterPlan,
        work: Path,
        units: UnitPlan,
        files: list[InputFile],
        config: CorpusConfig,
    ):
        self._plan, self._work, self._units = plan, work, units
        self._files, self._config = files, config
        self._near: NearDuplicates | None = None
        self._overlaps: list[Overlap] = []
        self._owners: list[str] = []
        self._boilerplate = dict[int, tuple[str, str, str]]()  # by source: file, hash, section
        self._caps: list[tuple[str, Caps, NDArray[np.int64]]] = []
        self._later = dict[str, FilterCounts]()
        self._why = np.empty(0, np.int8)  # near-duplicates' indices in NEAR_REASONS

    def scan_settings(self) -> dict[str, Any]:
        """What the first pass's orders have for filters; writes the file that they name."""
        if not self._plan.is_on:
            return {}
        path, content = self._work / PLAN_FILE, self._plan.content
        write_whole(path, content)
        sha256 = hashlib.sha256(content).hexdigest()
        settings: dict[str, Any] = {"filters": str(path), "filters_sha256": sha256}
        settings["records"] = self._plan.has_records
        near = self._plan.section.near_duplicates
        if near.enabled:
            settings["near_duplicates"] = near.model_dump(mode="json")
        return settings

    def count_lines(self, units: list[Unit], bar: PrepareProgress) -> None:
        """Find the boilerplate of each source, if that is removed and some of `units` are left."""
        section = self._plan.section.boilerplate
        if not section.enabled or not units:
            return
        run = _shown(bar)
        orders = [
            work_units.order(unit, self._files, self._config)
            | {"lines": str(path), "characters": section.characters}
            for unit in self._units.units
            if not is_counted(path := lines_file(self._work, unit.index))
        ]
        for _ in run(count_lines, orders):
            pass
        for source in range(len(self._config.sources)):
            own = [unit.index for unit in self._units.units if unit.source == source]
            lines = boilerplate_in([lines_file(self._work, unit) for unit in own], section)
            path = self._work / f"boilerplate-{source}.npy"
            with whole_file(path) as file:
                np.save(file, lines)
            self._boilerplate[source] = (str(path), checksum(path), section.model_dump_json())

    def unit_settings(self, unit: Unit) -> dict[str, Any]:
        """What the first pass's order for one unit has for filters."""
        found = self._boilerplate.get(unit.source)
        return {"boilerplate": found} if found else {}

    def later_settings(self, unit: int) -> dict[str, Any]:
        """What a later pass's order for a unit has: the file of the texts to read."""
        if not self._plan.is_on:
            return {}
        return {"texts": str(texts_file(self._work, unit)), "records": self._plan.has_records}

    def leave_out(self, scanned: Scanned, bounds: list[int], bar: PrepareProgress) -> Scanned:
        """The documents with the fates that filters that compare them give them.

        Args:
            scanned: the first pass's result.
            bounds: hash bounds between the splits.
            bar: progress to show.
        """
        section, fates = self._plan.section, scanned.fates.copy()
        splits = split_of(scanned.hashes, bounds)
        units = ComparedUnits(self._work, scanned.begins, self._order, _shown(bar))
        if section.near_duplicates.enabled:
            bar.say("looking for near-duplicates …")
            near = Search(section.near_duplicates, units).found(fates == KEPT, splits)
            self._near, self._why = near, self._reasons(near, splits, scanned)
            counts = FilterCounts(int((fates == KEPT).sum()))
            counts.dropped.update(map(NEAR_REASONS.__getitem__, self._why.tolist()))
            self._later["near_duplicates"] = counts
            fates[near.documents] = NEAR_DUPLICATE
        if section.decontaminate.enabled:
            bar.say("looking for overlap with evaluations …")
            search = Decontamination(section.decontaminate, self._plan.evaluations, units)
            self._overlaps, self._owners = search.found(fates == KEPT, splits), search.owners
            counts = FilterCounts(int((fates == KEPT).sum()))
            counts.dropped.update(self._owners[one.owner] for one in self._overlaps)
            counts.found.update(too_short(self._plan.evaluations))
            self._later["decontaminate"] = counts
            fates[[one.document for one in self._overlaps]] = CONTAMINATED
        for number, cap in enumerate(section.caps):
            if cap.enabled:
                valued = replace(units, order=self._value_order(cap))
                self._cap(Caps(cap, number, valued), cap, fates, scanned)
        return replace(scanned, fates=fates)

    def _cap(
        self, caps: Caps, section: CapSection, fates: NDArray[np.uint8], scanned: Scanned
    ) -> None:
        """Give the documents that exceed a cap their fate."""
        live = fates == KEPT
        if section.sources:
            counted = [
                self._config.sources[unit.source].name in section.sources
                for unit in self._units.units
            ]
            live &= np.repeat(np.array(counted), np.diff(scanned.begins))
        over = caps.found(live, scanned.hashes)
        counts = FilterCounts(int((fates == KEPT).sum()))
        if len(over):
            counts.dropped[OVER_CAP] = len(over)
        self._later[f"caps.{section.name}"] = counts
        self._caps.append((section.name, caps, over))
        fates[over] = CAPPED

    def _value_order(self, section: CapSection) -> Callable[[int], dict[str, Any]]:
        def order(unit: int) -> dict[str, Any]:
            source = self._config.sources[self._units.units[unit].source]
            values = None
            if section.column and source.name in (section.sources or [source.name]):
                values = work_units.read_of(self._config, source, section.column)
            return self._order(unit) | {"values": values, "source": source.name}

        return order

    def _order(self, unit: int) -> dict[str, Any]:
        order = work_units.order(self._units.units[unit], self._files, self._config)
        return order | self.later_settings(unit)

    def _reasons(
        self, near: NearDuplicates, splits: NDArray[np.int8], scanned: Scanned
    ) -> NDArray[np.int8]:
        """Index in `NEAR_REASONS` of where the document is that stays for each near-duplicate."""
        sources = np.repeat(
            np.array([unit.source for unit in self._units.units], np.int32), np.diff(scanned.begins)
        )
        one, other = near.documents, near.kept
        found = np.where(sources[one] == sources[other], 2, 1)
        return np.where(splits[one] == splits[other], found, 0).astype(np.int8)

    def counts(self, scanned: Scanned) -> dict[str, FilterCounts]:
        """What each filter did to the whole corpus, by its name, in their order."""
        found = dict[str, FilterCounts]()
        for unit in scanned.filtered_in:
            for name, counts in unit.items():
                found.setdefault(name, FilterCounts()).add(counts)
        return found | self._later

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
        """Documents of a unit that filters dropped: one by one, near-duplicates, overlaps."""
        with pa.memory_map(str(dropped_file(self._work, unit.index))) as mapped:
            rows: list[dict[str, Any]] = pa.ipc.open_file(mapped).read_all().to_pylist()
        for row in rows:
            origin = self._origin(unit, scanned, row.pop("part"), row.pop("row"))
            yield DroppedDocument(**(row | origin))
        begin, end = scanned.begins[unit.index : unit.index + 2].tolist()
        if self._near is not None:
            first, last = np.searchsorted(self._near.documents, [begin, end])
            examples = Examples()
            for place in range(first, last):
                yield self._near_duplicate(place, unit, scanned, examples)
        first, last = (bisect_left(self._overlaps, (bound,)) for bound in (begin, end))
        for one in self._overlaps[first:last]:
            yield DroppedDocument(
                filter="decontaminate",
                reason=self._owners[one.owner],
                score=one.share,
                doc_id=scanned.hashes[one.document].tobytes().hex(),
                text=one.text,
                **self._origin(unit, scanned, one.part, one.row),
            )

        for name, caps, over in self._caps:
            examples = Examples()
            for document in over[slice(*np.searchsorted(over, [begin, end]))].tolist():
                shown = caps.shown(document)
                text = f"{shown.value}: {shown.start}"
                yield DroppedDocument(
                    filter=f"caps.{name}",
                    reason=OVER_CAP,
                    score=None,
                    doc_id=scanned.hashes[document].tobytes().hex(),
                    text=examples.start_of(name, OVER_CAP, text),
                    **self._origin(unit, scanned, shown.part, shown.row),
                )

    def _near_duplicate(
        self, place: int, unit: Unit, scanned: Scanned, examples: Examples
    ) -> DroppedDocument:
        assert self._near is not None
        document, kept = int(self._near.documents[place]), int(self._near.kept[place])
        reason = NEAR_REASONS[self._why[place]]
        candidates, inside = self._candidates(document, scanned)
        text = like_text = None
        if examples.is_next("near_duplicates", reason):
            text = candidates.start_of(inside)
            others, place_of_other = self._candidates(kept, scanned)
            like_text = others.start_of(place_of_other)
        return DroppedDocument(
            filter="near_duplicates",
            reason=reason,
            score=round(float(self._near.similarity[place]), 4),
            doc_id=scanned.hashes[document].tobytes().hex(),
            text=text,
            like=scanned.hashes[kept].tobytes().hex(),
            like_text=like_text,
            **self._origin(unit, scanned, *candidates.row_of(inside)),
        )

    def _candidates(self, document: int, scanned: Scanned) -> tuple[Candidates, int]:
        """The file of candidates that has a document, and the document's index in its unit."""
        assert self._near is not None
        unit = int(np.searchsorted(scanned.begins, document, side="right")) - 1
        return opened(*self._near.files[str(unit)]), document - int(scanned.begins[unit])

    def _origin(self, unit: Unit, scanned: Scanned, part: int, row: int) -> dict[str, str]:
        """Where a document came from, for the record."""
        source = self._config.sources[unit.source]
        number = scanned.first_rows[unit.index][part] + row
        return {
            "source": source.name,
            "file": self._files[unit.parts[part].file].shown,
            "row": row_name(source.format, number),
        }
