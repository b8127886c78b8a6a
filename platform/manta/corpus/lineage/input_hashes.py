"""The hashes of the input files of a corpus, and what became of the rows of each source."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from manta.config.corpus import CorpusConfig
from manta.config.errors import CorpusError
from manta.corpus.documents import CAPPED, CONTAMINATED, DUPLICATE, NEAR_DUPLICATE
from manta.corpus.lineage.origin import OriginFile, OriginSource
from manta.corpus.scan import Scanned
from manta.corpus.sources import InputFile, open_input
from manta.corpus.work_units import UnitPlan

CHUNK = 4 << 20
# Bytes of files that one task reads: many small files together, and a large one alone.
TASK_BYTES = 64 << 20
FATES = {
    DUPLICATE: "duplicate",
    NEAR_DUPLICATE: "near_duplicates",
    CONTAMINATED: "decontaminate",
    CAPPED: "caps",
}


def hash_orders(files: Sequence[InputFile]) -> list[dict[str, Any]]:
    """The orders of a pass over all input files, for `hash_files`."""
    orders: list[dict[str, Any]] = []
    for file in files:
        if not orders or orders[-1]["bytes"] + file.size > TASK_BYTES:
            orders.append({"unit": len(orders), "bytes": 0, "parts": []})
        orders[-1]["bytes"] += file.size
        orders[-1]["parts"].append([dataclasses.astuple(file), 0, None])
    return orders


def hash_files(order: dict[str, Any]) -> dict[str, Any]:
    """The task of one order: size and SHA-256 of each file; None for one that can't be read.

    Raises:
        CorpusError: if a file changed since it was listed.
    """
    found = [_hashed(InputFile(*file)) for file, _, _ in order["parts"]]
    return {"unit": order["unit"], "bytes": order["bytes"], "files": found}


def _hashed(file: InputFile) -> tuple[int, str] | None:
    sha256, size = hashlib.sha256(), 0
    try:
        with open_input(file.url) as raw:
            while chunk := raw.read(CHUNK):
                sha256.update(chunk)
                size += len(chunk)
        if "://" not in file.url and str(os.stat(file.url).st_mtime_ns) != file.stamp:
            size = -1
    except OSError:
        return None  # it is listed as unusable already
    if file.size and size != file.size:
        raise CorpusError(
            f"{file.shown}: changed while the corpus was being prepared; run the same command again"
        )
    return size, sha256.hexdigest()


def origin_sources(
    config: CorpusConfig,
    files: Sequence[InputFile],
    hashes: Sequence[tuple[int, str] | None],
    scanned: Scanned,
    units: UnitPlan,
    documents: dict[str, int],
) -> list[OriginSource]:
    """What the corpus's sources were, and what became of their rows.

    Args:
        config: the corpus's config.
        files: input files of all sources.
        hashes: size and SHA-256 of each file; None for one that can't be read.
        scanned: the result of the first pass, with the fates that filters gave.
        units: units of the input.
        documents: documents of each source that are in the corpus.
    """
    dropped = _dropped(config, scanned, units)
    found = []
    for index, source in enumerate(config.sources):
        listed = [
            OriginFile(
                path=file.shown,
                bytes=known[0],
                sha256=known[1],
                rows=scanned.rows_of_files.get(number, 0),
            )
            for number, (file, known) in enumerate(zip(files, hashes, strict=True))
            if file.source == index and known is not None
        ]
        found.append(
            OriginSource(
                name=source.name,
                format=source.format,
                files=listed,
                rows=sum(file.rows for file in listed),
                dropped={k: v for k, v in sorted(dropped[index].items()) if v},
                documents=documents[source.name],
            )
        )
    return found


def _dropped(config: CorpusConfig, scanned: Scanned, units: UnitPlan) -> list[Counter[str]]:
    """Documents of each source that were left out, by reason or filter."""
    found = [Counter[str]() for _ in config.sources]
    number = {source.name: index for index, source in enumerate(config.sources)}
    for unit in units.units:
        counted = found[unit.source]
        counted["empty"] += scanned.empty_in[unit.index]
        fates = np.bincount(scanned.fates_of(unit.index), minlength=max(FATES) + 1)
        counted.update({name: int(fates[fate]) for fate, name in FATES.items()})
        for name, counts in scanned.filtered_in[unit.index].items():
            counted[name] += counts.dropped.total()
    for problem in scanned.problems:
        found[number[problem.source]]["unusable"] += 1
    return found
