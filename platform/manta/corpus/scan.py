"""The first pass: read and check every row, and hash every document."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manta.config.corpus import CorpusConfig
from manta.corpus.documents import (
    DUPLICATE,
    HASH_BYTES,
    KEPT,
    SPLITS,
    Hashes,
    Problem,
    first_occurrences,
    sample_priority,
    split_of,
)
from manta.corpus.filters.filter_chain import FilterCounts
from manta.corpus.filters.filtered_unit import counts_of, unit_filter
from manta.corpus.label_records import label_of, sorted_classes
from manta.corpus.leftovers import sample_file, scan_file
from manta.corpus.readers import OTHER_ROWS, ROW_NAMES
from manta.corpus.sources import InputFile
from manta.corpus.work_units import UnitPlan, identified, rows
from manta.storage.atomic import whole_file, write_whole

# Factor by which more documents are kept for the sample than it needs, as their share is computed
# from estimated sizes.
SAMPLE_MARGIN = 1.25


@dataclass(frozen=True)
class Located:
    """A problem, with its source, file and row."""

    source: str
    file: str
    row: str
    reason: str
    content: str

    def __str__(self) -> str:
        """The line of an error message."""
        return f"{self.file}{', ' if self.row else ''}{self.row}: {self.reason}"

    def as_json(self) -> str:
        """The line of the quarantine file."""
        fields = {k: v for k, v in vars(self).items() if k in ("source", "file", "reason") or v}
        return json.dumps(fields, ensure_ascii=False)


@dataclass(frozen=True)
class Scanned:
    """The result of the first pass, in canonical order.

    A document takes 25 bytes on the driver (hash, size, mark), and about as much again while
    duplicates are searched.

    Attributes:
        hashes: content hashes of all documents, shape (documents, HASH_BYTES).
        sizes: bytes of each document.
        fates: each document's fate: `KEPT`, or why it is left out.
        begins: index of the first document of each unit; the last entry is the number of documents.
        problems: problems found in rows and files.
        empty_in: number of texts without content in each unit.
        first_rows: for each unit and each of its parts, the number of the part's first row in its
            file.
        classes: names of the classes by which documents are labelled, in the order of their
            numbers; empty where they are not.
        filtered_in: for each unit the counts of its filters, by name; empty without filters.
        rows_of_files: number of rows of each file, by its index.
    """

    hashes: Hashes
    sizes: NDArray[np.uint64]
    fates: NDArray[np.uint8]
    begins: NDArray[np.int64]
    problems: list[Located]
    empty_in: list[int]
    first_rows: list[list[int]]
    classes: list[str]
    filtered_in: list[dict[str, FilterCounts]]
    rows_of_files: dict[int, int]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Whether each document goes into the corpus."""
        kept: NDArray[np.bool_] = self.fates == KEPT
        return kept

    @property
    def empty(self) -> int:
        """Number of texts without content."""
        return sum(self.empty_in)

    def bytes_in(self, bounds: list[int], unit_sources: list[int]) -> NDArray[np.int64]:
        """Bytes of the documents that are kept, by split and source.

        Args:
            bounds: hash bounds between the splits.
            unit_sources: the index of each unit's source.
        """
        sources = np.repeat(np.array(unit_sources, np.int64), np.diff(self.begins))
        found = np.zeros((len(SPLITS), max(unit_sources, default=0) + 1), np.int64)
        splits = split_of(self.hashes, bounds)
        kept = self.kept
        np.add.at(found, (splits[kept], sources[kept]), self.sizes[kept].astype(np.int64))
        return found

    def fates_of(self, unit: int) -> NDArray[np.uint8]:
        """What becomes of the documents of one unit."""
        return self.fates[int(self.begins[unit]) : int(self.begins[unit + 1])]

    def of_unit(self, unit: int) -> tuple[Hashes, NDArray[np.bool_], NDArray[np.uint64]]:
        """Hashes, marks and sizes of the documents of one unit."""
        span = slice(int(self.begins[unit]), int(self.begins[unit + 1]))
        return self.hashes[span], self.fates[span] == KEPT, self.sizes[span]


def scan_unit(order: dict[str, Any]) -> dict[str, Any]:
    """Scan one unit: hash its documents, record its problems, keep its share of the sample.

    `order` is that of `work_units.order`, with `work` (folder), `sample_below` and `train_below`
    (bounds on the two halves of a hash; see `documents`). With filters it has `filters` and
    `filters_sha256` too: the file with their plan.
    """
    hashes: list[bytes] = []
    sizes: list[int] = []
    problems: list[tuple[int, int | None, str, str]] = []
    sample: list[tuple[int, str]] = []
    counted = [0] * len(order["parts"])
    wanted, classes = order["wanted"], set[str]()
    has_classes = not isinstance(wanted, str) and wanted["records"] == "classes"
    empty = 0
    filtering = unit_filter(order)
    for part, row in rows(order):
        if filtering is not None:
            row = filtering.judged(part, counted[part], row)
        if isinstance(row, Problem):
            problems.append((part, row.row, row.reason, row.content))
        counted[part] += not (isinstance(row, Problem) and row.row is None)
        identity = identified(row)
        if identity is None:
            empty += isinstance(row, str)
            continue
        if _sampled(identity[0], order["sample_below"], order["train_below"]):
            sample.append((len(hashes), str(row)))
        hashes.append(identity[0])
        sizes.append(identity[1])
        if has_classes:
            classes.add(label_of(str(row)))
    work = Path(order["work"])
    notes: dict[str, Any] = {
        "problems": problems,
        "rows": counted,
        "empty": empty,
        "classes": sorted(classes),
        "sample": None,
    }
    if filtering is not None:
        notes["filtered"] = filtering.write(work, order)
    if sample:
        content = json.dumps(sample).encode()
        write_whole(sample_file(work, order["unit"]), content)
        notes["sample"] = hashlib.sha256(content).hexdigest()
    # Written last, as this file marks the unit as done.
    with whole_file(scan_file(work, order["unit"])) as file:
        np.savez(
            file,
            hashes=np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES),
            sizes=np.array(sizes, np.uint64),
            notes=np.frombuffer(json.dumps(notes).encode(), np.uint8),
        )
    return {"unit": order["unit"], "bytes": order["bytes"], "documents": len(hashes)}


def collect(
    work: Path,
    plan: UnitPlan,
    files: list[InputFile],
    config: CorpusConfig,
    known: Hashes | None = None,
) -> Scanned:
    """Join the results of all units, and find the duplicates, also of `known` documents."""
    hashes, sizes, empty = [], [], []
    first_rows: list[list[int]] = []
    problems = unusable_files(plan, files, config)
    rows_before: dict[int, int] = {}
    classes, filtered = set[str](), list[dict[str, FilterCounts]]()
    for unit in plan.units:
        with np.load(scan_file(work, unit.index)) as result:
            hashes.append(result["hashes"])
            sizes.append(result["sizes"])
            notes = json.loads(result["notes"].tobytes())
        empty.append(notes["empty"])
        filtered.append(counts_of(notes.get("filtered")))
        classes.update(notes["classes"])
        first_rows.append([])
        for part, count in zip(unit.parts, notes["rows"], strict=True):
            first_rows[-1].append(rows_before.get(part.file, 0))
            rows_before[part.file] = first_rows[-1][-1] + count
        for part, row, reason, content in notes["problems"]:
            place = None if row is None else row + first_rows[-1][part]
            file = files[unit.parts[part].file]
            problems.append(located(config, file, Problem(place, reason, content)))
    joined = np.concatenate([np.empty((0, HASH_BYTES), np.uint8), *hashes])
    begins = np.cumsum([0, *map(len, hashes)], dtype=np.int64)
    all_sizes = np.concatenate([np.empty(0, np.uint64), *sizes])
    # A file that can't be read has a problem for each of its parts.
    distinct = list(dict.fromkeys(problems))
    before = np.empty((0, HASH_BYTES), np.uint8) if known is None else known
    repeated = ~first_occurrences(np.concatenate([before, joined]))[len(before) :]
    return Scanned(
        joined,
        all_sizes,
        np.where(repeated, DUPLICATE, KEPT).astype(np.uint8),
        begins,
        distinct,
        empty,
        first_rows,
        sorted_classes(classes),
        filtered,
        rows_before,
    )


def unusable_files(plan: UnitPlan, files: list[InputFile], config: CorpusConfig) -> list[Located]:
    """The problems of files that could not be cut into parts."""
    return [located(config, files[index], problem) for index, problem in plan.problems]


def sample_bound(bytes_: int, plan: UnitPlan, train_below: int) -> int:
    """Bound on a hash's first half, below which a train document is kept for such a sample."""
    total = sum(unit.bytes for unit in plan.units) * train_below // 2**64
    wanted = int(bytes_ * SAMPLE_MARGIN)
    return 2**64 if wanted >= total else 2**64 * wanted // total


def sample_texts(work: Path, scanned: Scanned, bounds: list[int], bytes_: int) -> Iterator[str]:
    """The tokenizer's sample: `bytes_` of train documents, those lowest in `sample_priority`."""
    chosen = scanned.kept & (split_of(scanned.hashes, bounds) == 0)
    priority = sample_priority(scanned.hashes)
    places = np.flatnonzero(chosen)
    places = places[np.argsort(priority[places], kind="stable")]
    before = np.cumsum(scanned.sizes[places]) - scanned.sizes[places]
    wanted = np.zeros(len(chosen), dtype=bool)
    wanted[places[before < bytes_]] = True
    for unit, begin in enumerate(scanned.begins[:-1].tolist()):
        path = sample_file(work, unit)
        if path.exists():
            for index, text in json.loads(path.read_bytes()):
                if wanted[begin + index]:
                    yield text


def _sampled(identity: bytes, sample_below: int, train_below: int) -> bool:
    return (
        int.from_bytes(identity[:8]) < sample_below and int.from_bytes(identity[8:]) < train_below
    )


def row_name(format_: str, number: int) -> str:
    """A row of a file for people, such as `line 4`; `number` counts from 0."""
    name, first = ROW_NAMES.get(format_, OTHER_ROWS)
    return f"{name} {number + first}"


def located(config: CorpusConfig, file: InputFile, problem: Problem) -> Located:
    """A problem with its place for people; its row is counted from the file's start."""
    source = config.sources[file.source]
    place = "" if problem.row is None else row_name(source.format, problem.row)
    return Located(source.name, file.shown, place, problem.reason, problem.content)
