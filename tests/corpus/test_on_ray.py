"""The same on real Ray: all formats at once, determinism, errors, quiet."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from manta.config.errors import CorpusError
from manta.corpus import engine
from manta.corpus.prepare import prepare

pytestmark = pytest.mark.usefixtures("ray_local")


def texts(name: str, count: int = 60) -> list[str]:
    return [f"{name} {i}: {'some words of text ' * (i % 9)}" for i in range(count)]


@pytest.fixture
def sources(tmp_path: Path) -> list[dict]:
    """One source of each format."""
    for i, text in enumerate(texts("text", 5)):
        (tmp_path / f"{i}.txt").write_text(text)
    lines = [json.dumps({"body": text}) + "\n" for text in texts("jsonl")]
    (tmp_path / "a.jsonl").write_text("".join(lines[:40]))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[40:]).encode()))
    pq.write_table(pa.table({"text": texts("parquet")}), tmp_path / "a.parquet", row_group_size=25)
    table = pa.table({"text": texts("arrow")})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    return [
        {"name": "txt", "format": "text", "paths": [f"{tmp_path}/*.txt"]},
        {"name": "js", "format": "jsonl", "paths": [f"{tmp_path}/*.jsonl*"], "text_column": "body"},
        {"name": "pq", "format": "parquet", "paths": [f"file://{tmp_path}/a.parquet"]},
        {"name": "ar", "format": "arrow", "paths": [f"{tmp_path}/a.arrow"]},
    ]


def test_all_formats_and_the_same_bytes_at_any_parallelism(
    config, sources, documents, contents, capfd, monkeypatch, tmp_path, request
):
    settings = config(*sources, shard_tokens=400)
    prepare(settings)
    out = tmp_path / "out"
    in_parallel = contents(out)
    shown = capfd.readouterr()

    found = documents(out)
    assert [len([1 for _, source, _, _ in found if source == s]) for s in ("txt", "js")] == [5, 60]
    assert {text for *_, text in found} == {
        *texts("text", 5),
        *texts("jsonl"),
        *texts("parquet"),
        *texts("arrow"),
    }
    assert "185 documents" in shown.err
    assert "MB/s" in shown.err
    assert "Dataset" not in shown.err + shown.out  # nothing of Ray Data's own

    shutil.rmtree(out)
    request.getfixturevalue("inline")
    prepare(settings, progress=False)  # one after the other
    assert contents(out) == in_parallel
    assert len([name for name in in_parallel if name.startswith("train")]) > 2


def test_an_error_of_a_worker_is_its_message_alone(make, sources, tmp_path):
    (tmp_path / "c.jsonl").write_text('{"body": "good"}\nnot json\n')

    with pytest.raises(CorpusError) as caught:
        make(*sources)

    assert str(caught.value).splitlines() == [
        f"{tmp_path}/c.jsonl, line 2: not valid JSON: Expecting value: line 1 column 1 (char 0)",
        "1 unusable input: repair what is named above, or set on_error: quarantine to leave it out",
    ]
    assert caught.value.__cause__ is None
    assert not (tmp_path / "out").exists()


def test_workers_hand_over_input_errors_and_raise_defects():
    def bad_input(_: dict) -> dict:
        raise CorpusError("said")

    assert engine._worker(bad_input)()({"order": "{}"}) == {"result": '{"error": "said"}'}
    with pytest.raises(ZeroDivisionError):
        engine._worker(lambda _: 1 // 0)()({"order": "{}"})


def test_all_cpus_work():
    workers = {done["worker"] for done in engine.run(_who, [{"i": i} for i in range(40)])}

    assert len(workers) == 2


def _who(_: dict) -> dict:
    return {"worker": ray.get_runtime_context().get_actor_id()}
