"""What an interrupted attempt left: only what is still as it was written is gone on with.

Every file of unfinished work is covered by a checksum: the arrays of a scan by those of their
format (zip's CRC-32), the sample beside it by the scan, a unit's pieces by its record, a finished
shard by its own record, the tokenizer by its last file; and JSON by a seal. What does not fit is
removed, and is made anew like what was never made.
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
    """A record as it is written."""
    return json.dumps(sealed({**content, "format": SEALED})).encode()


def read_record(path: Path) -> dict[str, Any]:
    """A record that `sealed_json` made.

    Raises:
        OSError, ValueError: if it is not as it was written.
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
    """Where the result of a unit's scan lies once it is done."""
    return work / f"unit-{unit:06d}.scan.npz"


def sample_file(work: Path, unit: int) -> Path:
    """Where the unit's share of the tokenizer's sample lies; there may be none."""
    return work / f"unit-{unit:06d}.sample.json"


def piece_file(work: Path, unit: int, split: str) -> Path:
    """Where the piece of a unit lies; there is none if the unit has no document in the split."""
    return work / f"unit-{unit:06d}.{split}.arrow"


def record_file(work: Path, unit: int) -> Path:
    """Where the unit's counts lie once all its pieces are written."""
    return work / f"unit-{unit:06d}.json"


def shard_record(work: Path, name: str) -> Path:
    """Where the record of a shard lies, before the shard has its final name."""
    return work / f"{name}.json"


# ------------------------------------------------------------------------------ what is damaged


def remove_damaged(out: Path, work: Path, units: Iterable[int]) -> list[str]:
    """Remove what is not as it was written; returns the names of these files."""
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
            expected = json.loads(arrays["notes"].tobytes())["sample"]
        path = sample_file(work, unit)
        if expected is not None and checksum(path) != expected:
            raise ValueError(path)
    except Exception:  # a damaged archive raises nearly anything
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
    """The pieces that a finished shard needs no more; or the name of what is damaged."""
    final = out / record.name.removesuffix(".json")
    if not final.exists():
        record.unlink()  # it was just being finished; or it is gone, and its pieces are missed
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
    """Forget a unit whose pieces are neither whole nor in a finished shard."""
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
