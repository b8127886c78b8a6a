"""Checkpoints in an object store: whole or not there, passed over when damaged; and no pickle."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import plain_runs
import pytest
import torch
from plain_runs import engine_of, loop_of, losses, streams_of
from s3_server import S3Server
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import LoadItemType, ReadItem

from manta.config.errors import RunError
from manta.elastic.checks.preflight import Checked
from manta.state import checkpoint_files
from manta.state.checkpoint_files import Inventory, name_of, read_state, whole
from manta.state.dcp import METADATA, Planner
from manta.storage.place import Place, tree
from manta.stream.ledger import Ledger
from manta.train.export import load_weights

STEP = 16 * 7  # tokens


@pytest.fixture
def server() -> Iterator[S3Server]:
    """A server of the test's own, to pause."""
    found = S3Server()
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def train(run: Checked, rows: Path, at: dict[int, Any] | None = None) -> list[Place]:
    """Train in this process, with something done before some steps; the whole checkpoints."""

    def streams(cursor: int):
        for batch in streams_of(run)(cursor):
            (at or {}).get(batch.step.number, lambda: None)()
            yield batch

    loop_of(run, engine_of(run), rows).run(streams)
    return whole(run.place / "checkpoints")


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lose_a_file(place: Place) -> None:
    next(iter(place.glob("*.distcp"))).unlink()


def truncate(place: Place) -> None:
    data = next(iter(place.glob("*.distcp")))
    data.write_bytes(data.read_bytes()[:-100])


def lose_the_state(place: Place) -> None:
    (place / "state.json").unlink()


def garble(place: Place) -> None:
    """The same size, other content: found only when it is loaded."""
    (place / METADATA).write_bytes(bytes(len((place / METADATA).read_bytes())))


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


def poisoned(original: bytes, proof: Path) -> bytes:
    """A pickle of the same size that does something."""
    content = pickle.dumps(Hostile(proof))
    return content + bytes(len(original) - len(content))


@pytest.mark.parametrize("damage", [lose_a_file, truncate, lose_the_state, garble])
def test_a_damaged_checkpoint_is_passed_over_by_name(
    checked, s3: S3Server, tmp_path: Path, caplog, damage
) -> None:
    storage = s3.url(f"damage/{tmp_path.name}")
    run = checked({"checkpoint.every": 4 * STEP, "run.storage": storage})
    rows = tmp_path / "rows.jsonl"
    assert [read_state(path).step for path in train(run, rows)] == [8, 12]
    reference = losses(rows_in(rows))
    damage(run.place / "checkpoints" / name_of(12))
    with caplog.at_level(logging.WARNING, "manta"):
        paths = train(run, rows)
    assert name_of(12) in caplog.text
    assert [row["resumed"] for row in rows_in(rows) if "resumed" in row] == [0, 8]
    assert losses(rows_in(rows)) == reference
    table = Ledger(run.place / "ledger.parquet").read()
    assert table["step"].to_pylist() == list(range(1, 13))
    assert [path.name for path in paths] == [name_of(8), name_of(12)]
    carried = checkpoint_files.read_rows(run.place / "checkpoints" / name_of(12))
    assert [row["step"] for row in carried] == list(range(1, 13))


def test_training_goes_on_while_the_store_does_not_answer(
    checked, server: S3Server, tmp_path: Path, caplog
) -> None:
    changes = {
        "run.storage": server.url("runs", timeout=1),
        "checkpoint": {"every": 3 * STEP, "keep": 3},
    }
    run = checked(changes)
    with caplog.at_level(logging.WARNING, "manta"):
        at = {5: server.pause, 7: server.go_on}
        steps = [read_state(path).step for path in train(run, tmp_path / "rows", at)]
    [warning] = [r.getMessage() for r in caplog.records if r.name.startswith("manta")]
    assert "the checkpoint of step 6 can't be written to s3://bucket/runs" in warning
    assert "The checkpoints before it are whole" in warning
    assert steps == [3, 9, 12]
    table = Ledger(run.place / "ledger.parquet").read()
    assert table["step"].to_pylist() == list(range(1, 13))
    found = {path.split("/")[1] for path in tree(run.place) if path.startswith("checkpoints/")}
    assert found == {name_of(step) for step in steps}, "nothing is left of what failed"


def test_checkpoints_may_come_faster_than_the_store_takes_them(
    checked, s3: S3Server, tmp_path: Path
) -> None:
    """Each begins while the one before is on its way; no row of the ledger comes twice."""
    changes = {"run.storage": s3.url(f"fast/{tmp_path.name}"), "checkpoint.every": STEP}
    run = checked(changes)
    rows = plain_runs.train(run, 2)
    assert [row["checkpoint"] for row in rows if "checkpoint" in row] == list(range(1, 13))
    table = Ledger(run.place / "ledger.parquet").read()
    assert table["step"].to_pylist() == list(range(1, 13))
    assert [read_state(path).step for path in whole(run.place / "checkpoints")] == [11, 12]


@pytest.mark.parametrize("where", ["store", "disk"])
def test_a_hostile_checkpoint_is_refused_and_nothing_in_it_runs(
    checked, s3: S3Server, tmp_path: Path, caplog, where: str
) -> None:
    storage = s3.url(f"hostile/{tmp_path.name}") if where == "store" else str(tmp_path / "runs")
    run = checked({"checkpoint.every": 4 * STEP, "run.storage": storage})
    run.run_dir.mkdir(parents=True, exist_ok=True)
    rows, proof = tmp_path / "rows.jsonl", tmp_path / "proof"
    train(run, rows)
    checkpoint = run.place / "checkpoints" / name_of(12)
    metadata = poisoned((checkpoint / METADATA).read_bytes(), proof)
    (checkpoint / METADATA).write_bytes(metadata)
    # Who can write to the storage can also make checksum, size and seal fit.
    before = Inventory.read(checkpoint)
    checksums = {**before.checksums, METADATA: hashlib.sha256(metadata).hexdigest()}
    sizes = {**before.files, METADATA: len(metadata)}
    replace(before, checksums=checksums, files=sizes).write(checkpoint, 1)
    said = r"refused as the metadata of a checkpoint: it names posix\.mkdir"
    with pytest.raises(RunError, match=said):
        load_weights(run.place, run.config, 12)
    with caplog.at_level(logging.WARNING, "manta"):
        train(run, rows)
    assert "posix.mkdir" in caplog.text
    assert [row["resumed"] for row in rows_in(rows) if "resumed" in row] == [0, 8]
    assert not proof.exists()


def test_what_is_no_tensor_is_not_unpickled_either(tmp_path: Path) -> None:
    """Torch's own planner would: it loads what lies beside the tensors with all of pickle."""
    proof, content = tmp_path / "proof", io.BytesIO()
    torch.save(Hostile(proof), content)
    content.seek(0)
    index = MetadataIndex("optimizer.param_groups")
    nowhere = torch.Size([0])
    item = ReadItem(LoadItemType.BYTE_IO, index, nowhere, index, nowhere, nowhere)
    with pytest.raises(pickle.UnpicklingError, match=r"posix\.mkdir"):
        Planner().load_bytes(item, content)
    assert not proof.exists()
