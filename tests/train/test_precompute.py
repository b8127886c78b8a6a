"""A teacher's probabilities, computed once by Ray and kept beside the corpus, and runs by them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from inline_prepare import prepared_chats
from plain_runs import train
from s3_server import S3Server, upload
from saved_models import saved_llama

from manta.config.errors import ConfigError, RunError
from manta.config.run import RunConfig
from manta.corpus.manifest import Manifest
from manta.elastic.checks.preflight import check
from manta.elastic.driver import precompute as precomputing
from manta.elastic.driver.precompute import finished, plan, precompute
from manta.sample import shard_file
from manta.storage.atomic import whole_file
from manta.storage.place import place_of
from manta.storage.store import StorePath
from manta.stream.precomputed import PrecomputedManifest

LENGTH, STEPS = 16, 6
Build = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A corpus of text of this module's own: files are put beside it."""
    return Path(shutil.copytree(corpus, tmp_path_factory.mktemp("own") / "text"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the text's vocabulary."""
    return saved_llama(tmp_path_factory.mktemp("teachers") / "text", seed=1)


@pytest.fixture
def run(text: Path, teacher: Path, tmp_path: Path) -> Build:
    """Builds the config of a run on text that begins as its teacher's sibling."""
    student = saved_llama(tmp_path / "student", seed=2)

    def build(name: str, top_k: int | None, **changes: Any) -> RunConfig:
        base: dict[str, Any] = {
            "run": {"name": name, "storage": str(tmp_path)},
            "corpus": str(text),
            "model": {"pretrained": str(student)},
            "objective": {
                "type": "distill",
                "teacher": str(teacher),
                "temperature": 2.0,
                "kd_ratio": 0.8,
                "top_k": top_k,
            },
            "train": {"seq_len": LENGTH, "micro_batch": 4},
            "schedule": {"horizon": LENGTH * 7 * STEPS, "lr": 1e-3, "batch": 7},
            "checkpoint": {"every": LENGTH * 7 * 3},
            "eval": {"every": LENGTH * 7 * 3, "tokens": 4096},
        }
        return RunConfig.model_validate(_merged(base, changes))

    return build


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {key: changes.get(key, value) for key, value in {**base, **changes}.items()}
    return {
        key: {**base[key], **value} if isinstance(value, dict) and key in base else value
        for key, value in both.items()
    }


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of some samples each, so that a corpus of some thousand tokens has several."""
    monkeypatch.setattr(precomputing, "SHARD_BYTES", 2**16)


def shown(rows: list[dict[str, Any]]) -> dict[str, float]:
    found = {}
    for row in rows:
        for key, value in row.items():
            if "term/" in key:
                found[f"{key} {row['step']}"] = value
    return found


@pytest.mark.usefixtures("ray_local", "small_shards")
def test_runs_learn_from_it_what_the_teacher_beside_them_would_say(run: Build) -> None:
    config = run("offline", 60)  # of 61 tokens: the rest is the last one by itself
    with pytest.raises(ConfigError, match=r"objective.top_k = 60: .* `manta precompute`"):
        check(config)
    planned = plan(config)
    assert len(list(planned.spans())) > 4
    written = precompute(planned, progress=False)
    assert finished(planned) == written
    sizes = [(planned.folder / shard.file).stat().st_size for shard in written.shards]
    assert sum(sizes) == pytest.approx(planned.bytes, rel=0.1)

    online = shown(train(check(run("online", None))))
    offline = check(config)
    assert shown(train(offline)) == pytest.approx(online, rel=1e-5)
    mixed = check(run("mixed", 60))
    train(mixed, 3, die_after=4)
    assert shown(train(mixed, 2, attempt=2)) == pytest.approx(online, rel=1e-5)


@pytest.mark.usefixtures("ray_local", "small_shards")
def test_an_attempt_that_was_interrupted_goes_on(run: Build) -> None:
    planned = plan(run("again", 5))
    whole = precompute(planned, progress=False)
    (planned.folder / "precomputed.json").unlink()
    gone, *kept = (planned.folder / shard.file for shard in whole.shards)
    gone.unlink()
    before = [path.stat().st_mtime_ns for path in kept]
    assert finished(planned) is None
    assert precompute(planned, progress=False) == whole
    assert [path.stat().st_mtime_ns for path in kept] == before


@pytest.mark.usefixtures("ray_local", "small_shards")
def test_beside_a_corpus_in_a_store_it_is_the_same_and_goes_on(
    run: Build, text: Path, s3: S3Server
) -> None:
    store = place_of(s3.url("precomputed/text"))
    assert isinstance(store, StorePath)
    for file in text.iterdir():  # without what other tests have precomputed there
        if file.is_file():
            (store / file.name).write_bytes(file.read_bytes())
    config = run("store", 5, corpus=str(store))
    with pytest.raises(ConfigError, match=r"objective.top_k = 5: .* `manta precompute`"):
        check(config)
    planned = plan(config)
    written = precompute(planned, progress=False)
    assert finished(planned) == written == precompute(plan(run("folder", 5)), progress=False)

    (planned.folder / "precomputed.json").unlink()
    cut, gone, *kept = (planned.folder / shard.file for shard in written.shards)
    cut.write_bytes(cut.read_bytes()[:-9])
    gone.unlink()
    before = [path.modified() for path in kept if isinstance(path, StorePath)]
    assert precompute(planned, progress=False) == written
    assert [path.modified() for path in kept if isinstance(path, StorePath)] == before

    online = shown(train(check(run("by_folder", 5))))
    assert shown(train(check(config))) == online


def test_a_store_that_refuses_is_told_before_ray_starts(
    run: Build, text: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(text, place_of(s3.url("readonly/text")))  # type: ignore[arg-type]

    def refused(_place: StorePath, _content: bytes) -> None:
        raise OSError("AWS Error ACCESS_DENIED")

    monkeypatch.setattr(StorePath, "write_bytes", refused)
    with pytest.raises(RunError, match=r"corpus = '.*': can't be written to: .* allow"):
        plan(run("refused", 7, corpus=s3.url("readonly/text")))


@pytest.mark.usefixtures("ray_local")
def test_a_student_that_says_the_same_has_no_loss_and_other_rows_are_another(
    run: Build, teacher: Path
) -> None:
    config = run("same", 5, model={"pretrained": str(teacher)}, objective={"kd_ratio": 1.0})
    planned = plan(config)
    precompute(planned, progress=False)
    first = next(row for row in train(check(config)) if "loss" in row)
    assert abs(first["term/distill"]) < 1e-5
    assert first["loss"] > 1

    _shuffle_rows(planned.folder)
    shuffled = config.model_copy(update={"run": config.run.model_copy(update={"name": "other"})})
    other = next(row for row in train(check(shuffled)) if "loss" in row)
    assert other["term/distill"] > 0.1
    assert other["loss"] == first["loss"]


def _shuffle_rows(folder: Path) -> None:
    """Have each shard say of a sample what was computed of another one."""
    manifest = PrecomputedManifest.read(str(folder))
    shards = []
    for shard in manifest.shards:
        rows = shard_file.read(folder / shard.file)
        moved = pa.array(np.roll(np.arange(rows.num_rows), 1))
        with whole_file(folder / shard.file) as out:
            size, sha256 = shard_file.write(out, rows.take(moved))
        shards.append(shard.model_copy(update={"bytes": size, "sha256": sha256}))
    manifest.model_copy(update={"shards": shards}).write(folder)


@pytest.mark.usefixtures("ray_local")
def test_of_conversations_too(run: Build, tmp_path: Path) -> None:
    chats = prepared_chats(tmp_path, 48)[True]
    size = Manifest.read(str(chats)).vocab_size
    assert size is not None
    teacher = saved_llama(tmp_path / "teacher", seed=1, vocabulary=size)
    student = saved_llama(tmp_path / "chat_student", seed=2, vocabulary=size)
    changes: dict[str, Any] = {
        "corpus": str(chats),
        "model": {"pretrained": str(student)},
        "train": {"seq_len": 48, "micro_batch": 3},
        "data": {"document_mask": True},
        "schedule": {"horizon": 48 * 7 * 3, "lr": 1e-3, "batch": 7},
        "checkpoint": {"every": None},
        "eval": {"every": 48 * 7 * 3, "tokens": 4096},
        "objective": {"teacher": str(teacher), "per": "sequence", "divergence": "jsd"},
    }
    config = run("offline", size - 1, **changes)
    precompute(plan(config), progress=False)
    online = shown(train(check(run("online", None, **changes)), 2))
    assert shown(train(check(config), 2)) == pytest.approx(online, rel=1e-4)


def test_what_makes_no_sense_is_refused(run: Build, teacher: Path) -> None:
    with pytest.raises(ConfigError, match=r"objective.top_k is missing"):
        plan(run("wrong", None))
    with pytest.raises(ConfigError, match=r"top_k = 61: .* vocabulary has 61 tokens"):
        plan(run("wrong", 61))


def test_another_teacher_length_or_temperature_lies_elsewhere(run: Build, tmp_path: Path) -> None:
    other = saved_llama(tmp_path / "other", seed=3)
    folders = {
        plan(run("one", 5, **changes)).folder
        for changes in (
            {},
            {"objective": {"teacher": str(other)}},
            {"objective": {"temperature": 1.0}},
            {"train": {"seq_len": 8}},
            {"data": {"document_mask": True}},
        )
    }
    assert len(folders) == 5
    assert plan(run("one", 6)).folder not in folders
