"""What an older version left behind, to be gone on with, and what it came to there.

`tests/fixtures/make_kept.py` made it, with the code of the commit that `expected.json` names.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from arithmetic import arithmetic
from plain_runs import streams_of

from manta.elastic.checks.preflight import Checked
from manta.sample.tokens import flat_starts

FIXTURES = Path(__file__).parents[1] / "fixtures"
COLUMNS = ("step", "tokens", "lr", "batch_size", "loss", "grad_norm", "val_loss")


def unpack(archive: str, folder: Path) -> Path:
    """Put what is in an archive of the fixtures into a folder."""
    with tarfile.open(FIXTURES / archive) as file:
        file.extractall(folder, filter="data")
    return folder


def expected(folder: Path) -> Any:
    """What the older version came to."""
    return json.loads((folder / "expected.json").read_text())


def read_of(checked: Checked) -> dict[str, Any]:
    """What a run reads of its corpus."""
    assert checked.validation is not None
    found = hashlib.sha256()
    for batch in streams_of(checked)(0):
        found.update(batch.ids.astype("<i8").tobytes())
        found.update(batch.samples["tokens"].astype("<u2").tobytes())
        found.update(flat_starts(batch.samples).astype("<i8").tobytes())
    return {
        "fingerprint": checked.manifest.fingerprint,
        "samples": found.hexdigest(),
        "eval_sample": checked.validation.digest,
    }


def check_came_to(run: Path, expected: Any, arithmetic_then: str) -> bool:
    """The run in a folder must have come to what the older version did; True if to the bit.

    What was consumed is the same anywhere. Floats are the same to the bit where they are computed
    alike: where Torch alone, without Manta, comes to other bits, they are only close.
    """
    table = pq.read_table(run / "ledger.parquet").to_pylist()
    consumed = [[row[key] for key in ("step", "first_position", "digest")] for row in table]
    assert consumed == expected["ledger"], "other samples than the older version went on with"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [[row.get(key) for key in COLUMNS] for row in map(json.loads, lines)]
    alike = arithmetic() == arithmetic_then
    assert len(rows) == len(expected["rows"])
    for now, then in zip(rows, expected["rows"], strict=True):
        close = [None if value is None else pytest.approx(value, rel=1e-4) for value in then]
        assert now == (then if alike else close), (
            f"step {now[0]} has other values than the older version went on with: {COLUMNS}"
        )
    return alike
