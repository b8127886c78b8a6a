"""The same on real Ray: all formats at once, determinism, errors, quiet."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from manta.config.errors import CorpusError, ErrorReport, RunError
from manta.corpus import worker_pool
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
        "1 unusable input: repair what is named above, or leave it out with on_error: quarantine",
    ]
    assert caught.value.__cause__ is None
    assert not (tmp_path / "out").exists()


def test_workers_hand_over_input_errors_and_raise_defects():
    def bad_input(_: dict) -> dict:
        raise CorpusError("said")

    assert worker_pool.Worker(bad_input).work({}) == ErrorReport("CorpusError", "said")
    with pytest.raises(ZeroDivisionError):
        worker_pool.Worker(lambda _: 1 // 0).work({})


def test_all_cpus_work(tmp_path):
    orders = [{"folder": str(tmp_path)} for _ in range(10)]
    workers = {done["worker"] for done in worker_pool.run(_meeting, orders)}

    assert len(workers) == 2


def test_a_worker_that_dies_again_and_again_stops_with_what_it_died_at(tmp_path):
    orders = [_order(tmp_path, unit, deaths=99 if unit == 3 else 0) for unit in range(8)]
    orders[3]["largest"] = 45_000_000

    done = []
    with pytest.raises(CorpusError) as caught:
        done.extend(result["unit"] for result in worker_pool.run(_dying, orders))

    assert sorted(done) == [0, 1, 2, 4, 5, 6, 7]  # all the others, before the last try
    assert str(caught.value).startswith(
        "3 workers died one after the other at the same input, the last one while no other worker "
        "ran: a piece of 1.5MB of a.jsonl, b.jsonl, c.jsonl and 1 more; its largest document has "
        "45MB; most likely they ran out of memory. Split or leave out the largest document, or "
    )
    assert len((tmp_path / "3").read_text()) == 3


def test_a_worker_that_dies_costs_nothing_but_time(tmp_path):
    orders = [_order(tmp_path, unit, deaths=1 if unit in (1, 5) else 0) for unit in range(8)]

    done = [result["unit"] for result in worker_pool.run(_dying, orders)]

    assert sorted(done) == list(range(8))
    assert {len((tmp_path / f"{unit}").read_text()) for unit in (1, 5)} == {2}


def test_workers_that_can_not_start_are_no_fault_of_the_input(monkeypatch):
    class Broken(worker_pool.Worker):
        def __init__(self, _: object):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(worker_pool, "Worker", Broken)
    with pytest.raises(RunError, match="3 workers in a row died as they started"):
        list(worker_pool.run(_meeting, [{"i": 0}]))


def _order(folder: Path, unit: int, deaths: int) -> dict:
    parts = [[[0, f"/x/{name}.jsonl", f"{name}.jsonl", 9, ""], 0, 9] for name in "abcd"]
    return {"unit": unit, "bytes": 1_500_000, "parts": parts, "work": str(folder), "deaths": deaths}


def _dying(order: dict) -> dict:
    """Is killed for the first so many times that it comes to this order."""
    with (Path(order["work"]) / str(order["unit"])).open("a") as file:
        file.write("x")
    if (Path(order["work"]) / str(order["unit"])).stat().st_size <= order["deaths"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"unit": order["unit"]}


def _meeting(order: dict) -> dict:
    """Waits until two workers are at work at once."""
    worker, folder = ray.get_runtime_context().get_actor_id(), Path(order["folder"])
    (folder / worker).touch()
    end = time.monotonic() + 300
    while len(list(folder.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    return {"worker": worker}
