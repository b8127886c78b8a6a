"""Files of an interrupted attempt: undamaged ones are used, damaged ones are removed.

Every file of unfinished work has a checksum: the arrays of a scan those of their format (zip's
CRC-32), the sample beside it in the scan, a unit's pieces in its record, a finished shard in its
own record, the tokenizer in its last file; and JSON has a seal. A file that doesn't match is
removed, and made anew like one that was never made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from manta.corpus.documents import SPLITS
from manta.corpus.manifest import Shard
from manta.storage.seal import SEALED, sealed, unsealed

CHECKING_THREADS = 4
CHUNK = 1 << 22
DONE = "done"


def sealed_json(content: dict[str, Any]) -> bytes:
    """The bytes to write for a record: JSON with a seal."""
    return json.dumps(sealed({**content, "format": SEALED})).encode()


def read_record(path: Path) -> dict[str, Any]:
    """A record that `sealed_json` made.

    Raises:
        OSError, ValueError: if it can't be read or was changed after it was written.
    """
    return unsealed(json.loads(path.read_bytes()))


def checksum(path: Path) -> str:
    """The SHA-256 of a file."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
    return sha256.hexdigest()


# ------------------------------------------------------------------- names in the work folder


def scan_file(work: Path, unit: int) -> Path:
    """File of a unit's scan; it exists once the scan is done."""
    return work / f"unit-{unit:06d}.scan.npz"


def sample_file(work: Path, unit: int) -> Path:
    """File of a unit's share of the tokenizer's sample; there may be none."""
    return work / f"unit-{unit:06d}.sample.json"


def texts_file(work: Path, unit: int) -> Path:
    """File of the texts that filters leave of a unit; there is none without filters."""
    return work / f"unit-{unit:06d}.texts.arrow"


def dropped_file(work: Path, unit: int) -> Path:
    """File of the documents of a unit that filters dropped; there is none without filters."""
    return work / f"unit-{unit:06d}.dropped.arrow"


def sketches_file(work: Path, unit: int) -> Path:
    """File of the sketches of a unit's documents, by which near-duplicates are found."""
    return work / f"unit-{unit:06d}.sketches.npy"


def piece_file(work: Path, unit: int, split: str) -> Path:
    """File of a unit's piece; there is none if the unit has no document in the split."""
    return work / f"unit-{unit:06d}.{split}.arrow"


def record_file(work: Path, unit: int) -> Path:
    """File of a unit's counts; it exists once all its pieces are written."""
    return work / f"unit-{unit:06d}.json"


def shard_record(work: Path, name: str) -> Path:
    """File of a shard's record; it is written before the shard gets its final name."""
    return work / f"{name}.json"


# ------------------------------------------------------------------------------ what is damaged


def remove_damaged(out: Path, work: Path, units: Iterable[int]) -> list[str]:
    """Remove files that changed after they were written; returns their names."""
    units = list(units)
    with ThreadPoolExecutor(CHECKING_THREADS) as threads:
        scans = threads.map(lambda unit: _damaged_scan(work, unit), units)
        removed = [name for found in scans for name in found]
        removed += _damaged_tokenizer(work / "tokenizer")
        held, damaged = set[Path](), list[str]()
        for shard in threads.map(lambda path: _shard(out, work, path), sorted(_records(work))):
            if isinstance(shard, str):
                damaged.append(shard)
            else:
                held |= shard
        pieces = threads.map(lambda unit: _damaged_unit(work, unit, held), units)
        return removed + damaged + [name for found in pieces for name in found]


def _damaged_scan(work: Path, unit: int) -> Iterator[str]:
    scan = path = scan_file(work, unit)
    if not scan.exists():
        return
    try:
        with np.load(scan) as arrays:
            for name in arrays.files:
                _ = arrays[name]
            notes = json.loads(arrays["notes"].tobytes())
        beside = {sample_file(work, unit).name: notes["sample"]} if notes["sample"] else {}
        beside |= notes.get("filtered", {}).get("files", {})
        for name, expected in beside.items():
            path = work / name
            if checksum(path) != expected:
                raise ValueError(path)
    except Exception:  # a damaged archive can raise almost any exception
        scan.unlink()
        yield path.name


def _damaged_tokenizer(folder: Path) -> Iterator[str]:
    done = folder / DONE
    if not done.exists():
        return
    try:
        name = DONE
        for name, expected in read_record(done)["files"].items():
            if checksum(folder / name) != expected:
                raise ValueError(name)
    except (OSError, ValueError, LookupError, AttributeError):
        done.unlink()
        yield f"{folder.name}/{name}"


def _records(work: Path) -> Iterator[Path]:
    for split in SPLITS:
        yield from work.glob(f"{split}-*.arrow.json")


def _shard(out: Path, work: Path, record: Path) -> set[Path] | str:
    """The pieces that a finished shard no longer needs; or the name of the damaged file."""
    final = out / record.name.removesuffix(".json")
    if not final.exists():
        record.unlink()  # the shard was just being finished; if it is lost, its pieces are missing
        return set()
    name = record.name
    try:
        content = read_record(record)
        shard = Shard.model_validate(content["shard"])
        name = final.name
        if (shard.file, shard.sha256) == (final.name, checksum(final)):
            return {piece_file(work, unit, shard.split) for unit in content["units"]}
    except (OSError, ValueError, LookupError, TypeError):
        pass
    final.unlink()
    record.unlink()
    return name


def _damaged_unit(work: Path, unit: int, held: set[Path]) -> Iterator[str]:
    """Remove a unit's record if a piece is damaged and not in a finished shard."""
    record = record_file(work, unit)
    if not record.exists():
        return
    path = record
    try:
        for split, expected in read_record(record)["pieces"].items():
            path = piece_file(work, unit, split)
            if path not in held and checksum(path) != expected:
                raise ValueError(path)
    except (OSError, ValueError, LookupError, AttributeError):
        record.unlink()
        yield path.name
