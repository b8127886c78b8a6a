"""`manta prepare --dry-run`: what the filters would do, on a sample, without Ray and in seconds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from manta.config.corpus import CorpusConfig
from manta.corpus import work_units
from manta.corpus.documents import (
    HASH_BYTES,
    Problem,
    content_hash,
    split_bounds,
    split_of,
)
from manta.corpus.filters.dropped import DroppedDocument, Examples, start_of
from manta.corpus.filters.evaluations import too_short
from manta.corpus.filters.filter_chain import Dropped, FilterCounts, chain_of
from manta.corpus.filters.filter_verdict import Filter
from manta.corpus.filters.own_filter import OwnFilterError
from manta.corpus.filters.privacy import Privacy
from manta.corpus.filters.record_filter import said_in
from manta.corpus.filters.sample_comparison import near_duplicates_in, overlaps_in
from manta.corpus.filters.show_filters import examples_of, filters_table
from manta.corpus.inputs import Inputs
from manta.corpus.manifest import FilterRecord
from manta.corpus.progress_bar import short
from manta.corpus.scan import row_name
from manta.corpus.work_units import Unit

# Bytes of input that are read, and documents shown for each filter and reason.
SAMPLE_BYTES = 16 << 20
SHOWN = 2
AROUND = 80  # characters on both sides of a change


@dataclass(frozen=True)
class DryRun:
    """What the filters did to a sample.

    Attributes:
        documents: documents that were read.
        bytes: size of these documents' texts in UTF-8.
        duplicates: documents that equal an earlier one, after filters.
        records: a record of each filter.
        dropped: documents that were dropped and are shown.
        changes: name of a filter → parts of texts that it changed, as they became.
        problems: rows and files that can't be used; the first ones.
        whole: names of the filters that count in the whole corpus, so did not run.
    """

    documents: int
    bytes: int
    duplicates: int
    records: list[FilterRecord]
    dropped: list[DroppedDocument]
    changes: dict[str, list[str]]
    problems: list[str]
    whole: list[str]


def dry_run(config: CorpusConfig, inputs: Inputs, sample_bytes: int = SAMPLE_BYTES) -> DryRun:
    """Run the filters on a sample of the input: units evenly spaced over it."""
    plan = work_units.plan(config, inputs.files)
    sample = _Sample(config, inputs)
    for unit in spaced(plan.units, sample_bytes):
        sample.take(unit, sample_bytes)
    sample.compare()
    return sample.result()


def spaced(units: list[Unit], wanted: int) -> Iterator[Unit]:
    """Units with about `wanted` bytes, evenly spaced over all of them."""
    total = sum(unit.bytes for unit in units)
    every, before, due = max(1.0, total / wanted), 0.0, 0.0
    for unit in units:
        if before >= due or every == 1.0:
            yield unit
            due = before + unit.bytes * every
        before += unit.bytes


class _Sample:
    """The sample while it is read."""

    def __init__(self, config: CorpusConfig, inputs: Inputs):
        self._config, self._inputs = config, inputs
        self._chain = chain_of(inputs.filters.chain, inputs.filters.has_records)
        self._chain.watch = self._note_change
        self._mask = next((one for one in self._chain.filters if one.name == Privacy.name), None)
        self._examples = Examples()
        self._dropped: list[DroppedDocument] = []
        self._changes = defaultdict[str, list[str]](list)
        self._problems: list[str] = []
        self._seen = set[bytes]()
        self._documents = self._bytes = self._duplicates = 0
        self._kept: list[tuple[str, bytes, tuple[str, str, str]]] = []  # text, hash, place
        self._later: list[FilterRecord] = []

    def take(self, unit: Unit, most_bytes: int) -> None:
        order = work_units.order(unit, self._inputs.files, self._config)
        source = self._config.sources[unit.source]
        rows_before = Counter[int]()
        for part, row in work_units.rows(order):
            file = self._inputs.files[unit.parts[part].file].shown
            # Of a later part of a file, the number of its first row isn't known without a scan.
            whole = unit.parts[part].start == 0
            place = row_name(source.format, rows_before[part]) if whole else ""
            rows_before[part] += 1
            if isinstance(row, Problem):
                self._problems.append(f"{file}: {row.reason}")
            elif row is not None and row.strip():
                self._judge(row, source.name, file, place)
            if self._bytes >= most_bytes:
                return

    def _judge(self, text: str, source: str, file: str, row: str) -> None:
        self._documents += 1
        self._bytes += len(text.encode())
        try:
            verdict = self._chain.judge(text)
        except OwnFilterError as error:
            self._problems.append(f"{file}: {error}")
            return
        if isinstance(verdict, Dropped):
            shown = self._examples.start_of(verdict.filter, verdict.reason, verdict.text)
            identity = content_hash(verdict.text.encode()).hex()
            self._dropped.append(
                DroppedDocument(
                    verdict.filter,
                    verdict.reason,
                    verdict.score,
                    source,
                    file,
                    row,
                    identity,
                    shown,
                )
            )
            return
        identity_of_kept = content_hash(verdict.encode())
        if identity_of_kept in self._seen:
            self._duplicates += 1
            return
        self._seen.add(identity_of_kept)
        self._kept.append((verdict, identity_of_kept, (source, file, row)))

    def compare(self) -> None:
        """Run the filters that compare documents on those that are left."""
        section = self._inputs.filters.section
        if section.near_duplicates.enabled:
            texts, splits = self._left()
            found = near_duplicates_in(texts, splits, section.near_duplicates)
            why = "of another one of the sample"
            for document, kept, similarity in found:
                like = (self._kept[kept][1].hex(), start_of(texts[kept]))
                text = texts[document]
                self._leave_out("near_duplicates", why, similarity, document, text, like)
            self._count("near_duplicates", Counter({why: len(found)} if found else {}))
            self._remove({document for document, _, _ in found})
        if section.decontaminate.enabled:
            evaluations = self._inputs.filters.evaluations
            overlaps = overlaps_in(*self._left(), section.decontaminate, evaluations)
            for document, name, share, shown in overlaps:
                self._leave_out("decontaminate", name, share, document, shown, (None, None))
            names = Counter(name for _, name, _, _ in overlaps)
            self._count("decontaminate", names, Counter(too_short(evaluations)))
            self._remove({document for document, *_ in overlaps})

    def _left(self) -> tuple[list[str], NDArray[np.int8]]:
        """The documents that are left, and their splits."""
        identities = b"".join(identity for _, identity, _ in self._kept)
        hashes = np.frombuffer(identities, np.uint8).reshape(-1, HASH_BYTES)
        splits = split_of(hashes, split_bounds(self._config.split))
        said = said_in if self._inputs.filters.has_records else str
        return [said(text) for text, _, _ in self._kept], splits

    def _leave_out(
        self,
        filter_: str,
        reason: str,
        score: float,
        document: int,
        text: str,
        like: tuple[str | None, str | None],
    ) -> None:
        _, identity, place = self._kept[document]
        shown = self._examples.start_of(filter_, reason, text)
        score = round(score, 4)
        self._dropped.append(
            DroppedDocument(filter_, reason, score, *place, identity.hex(), shown, *like)
        )

    def _count(self, name: str, dropped: Counter[str], found: Counter[str] | None = None) -> None:
        counts = FilterCounts(len(self._kept), dropped, found=found or Counter())
        self._later.append(FilterRecord(name=name, **counts.as_json()))

    def _remove(self, documents: set[int]) -> None:
        self._kept = [one for place, one in enumerate(self._kept) if place not in documents]

    def _note_change(self, one: Filter, before: str, after: str) -> None:
        """Keep the part of a text that a filter changed, as it became: never private data."""
        if len(self._changes[one.name]) >= SHOWN:
            return
        if self._mask is not None and one is not self._mask:
            before, after = self._masked(before), self._masked(after)
        place = next(
            (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
            min(len(before), len(after)),
        )
        start = max(0, place - AROUND)
        self._changes[one.name].append(after[start : place + AROUND].strip())

    def _masked(self, text: str) -> str:
        verdict = self._mask.judge(text) if self._mask else None
        return getattr(verdict, "text", text)

    def result(self) -> DryRun:
        counts: dict[str, FilterCounts] = self._chain.counts
        return DryRun(
            self._documents,
            self._bytes,
            self._duplicates,
            [
                *(FilterRecord(name=name, **found.as_json()) for name, found in counts.items()),
                *self._later,
            ],
            self._dropped,
            dict(self._changes),
            self._problems,
            self._inputs.filters.section.of_whole,
        )


def render_dry_run(found: DryRun) -> RenderableType:
    """The result for people."""
    parts: list[RenderableType] = [
        f"sample: {found.documents:,} documents, {short(found.bytes)}B; nothing was written"
    ]
    if not found.records and not found.whole:
        parts.append("this config has no filters: docs/filters.md says how to use them")
        return Group(*parts)
    parts.append(filters_table(found.records))
    if found.whole:
        parts.append(f"not on a sample, but on the whole corpus: {', '.join(found.whole)}")
    parts.append(f"exact duplicates, which go as well: {found.duplicates:,}")
    for name, changes in found.changes.items():
        parts.append(Text(f"\n{name}: changed to", "bold"))
        parts += [Panel(Text(change), title=escape(name), title_align="left") for change in changes]
    parts.append(examples_of(found.dropped, SHOWN))
    if found.problems:
        more = f" (and {len(found.problems) - 1:,} more)" if len(found.problems) > 1 else ""
        parts.append(Text(f"can't be used: {found.problems[0]}{more}"))
    return Group(*parts)
