"""`manta verify`: a run that is right passes, and whatever was changed is named."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from manta import cli
from manta.config import MantaError, RunConfig
from manta.config.errors import CorpusError, RunError
from manta.config.schedule import ScheduleSection
from manta.corpus.manifest import Manifest
from manta.record.identity import binding_of
from manta.record.verify_run import verify
from manta.schedule import Schedule
from manta.show.tracker import Tracker
from manta.stream import verify_ledger as pure
from manta.stream.ledger import Ledger, LedgerRow, digest
from manta.stream.order import SampleOrder
from manta.stream.plan import local_stream, open_corpus

SEQ_LEN = 16
SKIPPED = 5


def consume(config: RunConfig, manifest: Manifest) -> Iterator[LedgerRow]:
    """The ledger rows of a run at world sizes 1 and then 2, by the stream it would read."""
    schedule = Schedule.resolve(config.schedule, SEQ_LEN)
    corpus = open_corpus(config.corpus, manifest, "train", SEQ_LEN, config.run.seed)
    cursor = 0
    for size, steps in ((1, 6), (2, schedule.steps - 6)):
        streams = [
            local_stream(corpus, schedule, cursor=cursor, rank=rank, world_size=size)
            for rank in range(size)
        ]
        for _, *batches in zip(range(steps), *streams, strict=False):
            step = batches[0].step
            cursor = step.first_position + step.batch_size
            yield LedgerRow(
                step=step.number,
                first_position=step.first_position,
                last_position=cursor - 1,
                tokens=step.tokens_after,
                world_size=size,
                attempt=size,
                digest=sum(digest(batch.ids) for batch in batches) % 2**64,
                skipped=step.number == SKIPPED,
            )


@pytest.fixture
def run_dir(tmp_path: Path, make_config: Any, make_corpus: Callable[..., Manifest]) -> Path:
    """A finished run of twelve steps, in three parts, on a corpus of two shards."""
    corpus = tmp_path / "corpus"
    manifest = make_corpus(corpus, {"train": [[40] * 30, [17] * 60], "validation": [[30]]})
    config = make_config(
        corpus=str(corpus),
        train={"seq_len": SEQ_LEN},
        schedule={
            "horizon": SEQ_LEN * 90,
            "lr": 0.1,
            "batch": [{"from": 5, "until": "50%"}, {"from": 10}],
        },
    )
    schedule = Schedule.resolve(config.schedule, SEQ_LEN)
    tokens = schedule.positions * SEQ_LEN
    tracker = Tracker.open(
        config, manifest, total_steps=schedule.steps, total_tokens=tokens, console=False
    )
    rows = list(consume(config, manifest))
    binding = binding_of(config, manifest.fingerprint)
    ledger = Ledger(tracker.run_dir / "ledger.parquet", binding)
    for begin, end in ((0, 4), (4, 9), (9, None)):
        ledger.append(rows[begin:end])
    last = rows[-1]
    tracker.checkpoint(step=last.step, tokens=last.tokens, path="there", seconds=1)
    tracker.finish("finished")
    return tracker.run_dir


def parts(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "ledger.parquet").glob("steps-*.parquet"))


def change_row(run_dir: Path, step: int, /, **values: Any) -> Path:
    """Rewrite one row of the ledger behind its back; returns the part."""
    for path in parts(run_dir):
        table = pq.ParquetFile(path).read()
        rows = table.to_pylist()
        if rows[0]["step"] <= step <= rows[-1]["step"]:
            rows[step - rows[0]["step"]].update(values)
            pq.write_table(table.from_pylist(rows, schema=table.schema), path)
            return path
    raise AssertionError(step)


def change_config(run_dir: Path, section: str, key: str, value: Any) -> None:
    path = run_dir / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[section][key] = value
    path.write_text(yaml.safe_dump(config))


def test_a_run_that_is_right(run_dir: Path) -> None:
    found = verify(run_dir)
    seen = found.consumed
    assert (seen.steps, seen.samples, seen.tokens) == (14, 95, 95 * SEQ_LEN)
    assert (seen.world_sizes, seen.attempts, seen.skipped) == ([1, 2], 2, [SKIPPED])
    assert found.shards == 3
    assert "skipped steps: 1 (5)" in "\n".join(found.lines())


def test_chunks_of_any_size_find_the_same(run_dir: Path, monkeypatch: Any) -> None:
    for size in (1, 12, 23):
        monkeypatch.setattr(pure, "CHUNK_SAMPLES", size)
        assert verify(run_dir, shards=False).consumed.steps == 14
    path = change_row(run_dir, 8, digest=0)
    with pytest.raises(RunError, match=rf"{path}: step 8: digest is 0, but .* give \d+"):
        verify(run_dir)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"digest": 1}, "step 7: digest is 1, but"),
        ({"first_position": 7}, "step 7: first_position is 7, but config and manifest give 30"),
        ({"last_position": 40}, "step 7: last_position is 40, but config and manifest give 34"),
        ({"tokens": None}, "step 7: tokens is None, but config and manifest give 560"),
        ({"step": 6}, "step 6 is repeated"),
        ({"step": 8}, "step 7 is missing"),
    ],
)
def test_a_changed_row_is_named(run_dir: Path, values: Any, said: str) -> None:
    change_row(run_dir, 11, digest=0)  # a later one: the first counts
    path = change_row(run_dir, 7, **values)
    with pytest.raises(RunError) as caught:
        verify(run_dir)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "from a copy" in str(caught.value)


def test_a_wrong_digest_before_a_wrong_position_is_the_first(run_dir: Path) -> None:
    change_row(run_dir, 7, first_position=0)
    change_row(run_dir, 6, digest=0)
    with pytest.raises(RunError, match="step 6: digest"):
        verify(run_dir)


def test_a_missing_and_a_repeated_row(run_dir: Path) -> None:
    path = parts(run_dir)[1]
    table = pq.ParquetFile(path).read()
    pq.write_table(table.filter([row != 2 for row in range(table.num_rows)]), path)
    with pytest.raises(RunError, match=f"{path}: step 7 is missing"):
        verify(run_dir)
    pq.write_table(table.take([0, 1, 1, 2, 3, 4]), path)
    with pytest.raises(RunError, match=f"{path}: step 6 is repeated"):
        verify(run_dir)


def test_lost_parts(run_dir: Path) -> None:
    first, middle, last = parts(run_dir)
    last.unlink()
    with pytest.raises(RunError, match="step 10 is missing: the ledger ends with step 9"):
        verify(run_dir)
    middle.unlink()
    first.unlink()
    with pytest.raises(RunError, match="step 1 is missing"):
        verify(run_dir)


def test_one_byte_of_a_token_shard(run_dir: Path, capsys: Any) -> None:
    corpus = Path(yaml.safe_load((run_dir / "config.yaml").read_text())["corpus"])
    shard = corpus / "train-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorpusError, match=rf"{shard}: damaged: its checksum .*\nprepare"):
        verify(run_dir)
    assert verify(run_dir, shards=False).shards is None


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("run", "seed", 1, "step 1: digest"),
        ("schedule", "batch", 5, "step 10: last_position is 54"),
        ("schedule", "horizon", SEQ_LEN * 30, "step 4: last_position is 19"),
        ("train", "seq_len", 8, "step 1: tokens"),
    ],
)
def test_another_config(run_dir: Path, section: str, key: str, value: Any, said: str) -> None:
    change_config(run_dir, section, key, value)
    with pytest.raises(RunError, match=said):
        verify(run_dir)


def test_a_shorter_schedule_leaves_rows_behind_its_end(run_dir: Path) -> None:
    change_config(run_dir, "schedule", "batch", [{"from": 5, "until": SEQ_LEN * 45}, {"from": 10}])
    change_config(run_dir, "schedule", "horizon", SEQ_LEN * 80)
    with pytest.raises(RunError, match="step 14 is after the end of the schedule, which has 13"):
        verify(run_dir)


def test_another_corpus(run_dir: Path, tmp_path: Path, make_corpus: Any) -> None:
    corpus = tmp_path / "corpus"
    make_corpus(corpus, {"train": [[40] * 30, [17] * 60], "validation": [[30]]}, seed=1)
    with pytest.raises(RunError, match=r"run\.json: the run was trained on the corpus"):
        verify(run_dir)


def test_a_ledger_from_before_the_column_skipped(run_dir: Path) -> None:
    for path in parts(run_dir):
        older = pq.ParquetFile(path).read().drop_columns(["skipped"])
        pq.write_table(older.replace_schema_metadata(None), path)
    record = json.loads((run_dir / "run.json").read_text())
    del record["seal"], record["format"], record["binding"]
    record["results"]["skipped_steps"] = []
    (run_dir / "run.json").write_text(json.dumps(record))
    assert verify(run_dir, shards=False).consumed.skipped == []
    assert Ledger(run_dir / "ledger.parquet").read()["skipped"].to_pylist() == [False] * 14


def test_the_command(run_dir: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.argv", ["manta", "verify", str(run_dir)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "14 of 14 steps" in capsys.readouterr().out
    change_row(run_dir, 3, digest=0)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "step 3: digest is 0" in capsys.readouterr().err
    with pytest.raises(MantaError, match="no run here"):
        verify(run_dir.parent)


def test_a_long_ledger_takes_seconds(tmp_path: Path) -> None:
    steps = 100_000
    config = {"horizon": steps * 8, "lr": 1.0, "batch": 8}
    schedule = Schedule.resolve(ScheduleSection.model_validate(config), 1)
    order = SampleOrder(key="c/train", seed=0, num_samples=300_001)
    first = np.arange(steps) * 8
    table = {
        "step": np.arange(1, steps + 1),
        "first_position": first,
        "last_position": first + 7,
        "tokens": first + 8,
        "world_size": np.full(steps, 4, np.int32),
        "attempt": np.ones(steps, np.int32),
        "digest": pure.digests(order.ids(0, steps * 8), first),
    }
    (tmp_path / "ledger").mkdir()
    pq.write_table(pa.table(table), tmp_path / "ledger" / "steps-1-100000.parquet")
    began = time.perf_counter()
    assert pure.verify_ledger(Ledger(tmp_path / "ledger"), schedule, order).steps == steps
    assert time.perf_counter() - began < 5
