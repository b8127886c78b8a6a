"""Killed at any moment and started again: the same bytes, and no shard made twice."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import copied
import pytest
from command import copy_of_manta
from killed_prepare import TEXTS, killed_at, renames_of, small_config, stopped_on_ray

from manta.config.corpus import CorpusConfig
from manta.corpus.prepare import prepare
from manta.corpus.workspace import LAYOUT


@pytest.fixture
def settings(config, jsonl, tmp_path) -> CorpusConfig:
    return config(jsonl(TEXTS), shard_tokens=600, out=str(tmp_path / "out"))


@pytest.fixture
def expected(settings, inline, contents, tmp_path) -> dict[str, bytes]:
    """The corpus as it is made without interruption."""
    whole = settings.model_copy(update={"out": str(tmp_path / "whole")})
    prepare(whole, progress=False)
    return contents(tmp_path / "whole")


def finished_shards(out: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.glob("*.arrow")}


@pytest.mark.parametrize(
    ("share", "moment"),
    [(0.3, "after"), (0.7, "before"), (0.85, "after")],
)
def test_killed_at_any_rename(settings, expected, contents, tmp_path, renames, share, moment):
    out = tmp_path / "out"
    at = max(1, int(renames * share))

    assert killed_at(settings, at, moment) == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    before = finished_shards(out)
    assert all(out.joinpath(name).read_bytes() == expected[name] for name in before)
    prepare(settings, progress=False)

    assert contents(out) == expected
    after = finished_shards(out)
    assert {name: after[name] for name in before} == before


@pytest.fixture(scope="module")
def renames(tmp_path_factory) -> int:
    """How many files get their name in one undisturbed attempt."""
    return renames_of(small_config(tmp_path_factory.mktemp("renames")))


def test_killed_just_before_the_manifest(settings, expected, contents, tmp_path, renames):
    assert killed_at(settings, renames, "before") == -signal.SIGKILL
    assert len(finished_shards(tmp_path / "out")) == len(finished_shards(tmp_path / "whole"))
    assert not (tmp_path / "out" / "manifest.json").exists()
    before = finished_shards(tmp_path / "out")

    prepare(settings, progress=False)

    assert contents(tmp_path / "out") == expected
    assert finished_shards(tmp_path / "out") == before


def test_killed_just_after_the_manifest(settings, expected, contents, tmp_path, renames):
    assert killed_at(settings, renames, "after") == -signal.SIGKILL
    assert (tmp_path / "out" / ".prepare").exists()

    prepare(settings, progress=False)

    assert contents(tmp_path / "out") == expected


def test_finished_units_are_not_done_again(settings, expected, monkeypatch, tmp_path, renames):
    from manta.corpus import worker_pool

    killed_at(settings, int(renames * 0.6))  # shards are joined beside, sooner or later
    work = tmp_path / "out" / ".prepare"
    scanned = len(list(work.glob("*.scan.npz")))
    encoded = len([p for p in work.glob("unit-*.json") if "sample" not in p.name])
    assert 0 < encoded < scanned
    orders: list[tuple[str, int]] = []
    real = worker_pool.run

    def counting(task, given):
        orders.append((task.__name__, len(given)))
        return real(task, given)

    monkeypatch.setattr(worker_pool, "run", counting)
    prepare(settings, progress=False)

    assert orders == [("scan_unit", 0), ("encode_unit", scanned - encoded)]


def test_what_an_older_layout_left_is_begun_anew_with_the_reason(
    settings, expected, contents, tmp_path, renames, caplog
):
    killed_at(settings, int(renames * 0.7))
    key = tmp_path / "out" / ".prepare" / "key.json"
    left = json.loads(key.read_text())["key"]
    key.write_text(json.dumps({"key": left.removesuffix(f" {LAYOUT}")}))

    prepare(settings, progress=False)

    assert "an interrupted attempt had another config, input or version" in caplog.text
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize("change", ["config", "input"])
def test_leftovers_of_another_config_or_input_are_not_mixed_in(
    settings, expected, jsonl, contents, tmp_path, renames, change
):
    killed_at(settings, int(renames * 0.9))
    assert finished_shards(tmp_path / "out")
    if change == "config":
        settings = settings.model_copy(update={"shard_tokens": 900})
    else:
        jsonl([*TEXTS[:-1], "another last document"])

    prepare(settings, progress=False)
    fresh = settings.model_copy(update={"out": str(tmp_path / "fresh")})
    prepare(fresh, progress=False)

    assert contents(tmp_path / "out") == contents(tmp_path / "fresh") != expected


def test_sigterm_ends_the_command_with_a_word(settings, tmp_path):
    """Of its own, not of Ray's: no stack of a crash, and no remarks on actors."""
    texts = [f"document {i}: {'lorem ipsum ' * 9}" for i in range(20_000)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    path = tmp_path / "corpus.yaml"
    path.write_text(json.dumps(settings.model_dump(mode="json") | {"shard_tokens": 25}))
    errors = tmp_path / "errors"
    with errors.open("w") as file:
        environment = {**os.environ, "COLUMNS": "200"}
        child = copy_of_manta("prepare", str(path), environment=environment, stderr=file)
    work = tmp_path / "out" / ".prepare"
    try:
        while not any(work.glob("*.scan.npz")):
            assert child.poll() is None, child.communicate()
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=300)
    finally:
        child.kill()
        child.wait()

    assert child.returncode == 130
    assert out.endswith("starting Ray …\n")
    bar, *said = errors.read_text().strip().splitlines()
    assert bar.startswith("reading")
    assert said == ["interrupted; the same command continues from here"]


def test_killed_on_ray(settings, ray_local, contents, tmp_path, request):
    """SIGKILL to a process in the middle of the second pass, with all of its Ray."""
    out = tmp_path / "out"
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as temp:
        child = copied.start(
            stopped_on_ray,
            settings.model_dump_json(),
            environment={**os.environ, "RAY_TMPDIR": temp},
            reads=True,
            stderr=sys.__stderr__,
        )
        try:
            assert child.stdout.readline() == "ready\n"
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    before = finished_shards(out)
    assert len(before) == 3
    assert not (out / "manifest.json").exists()

    prepare(settings, progress=False)

    resumed = contents(out)
    after = finished_shards(out)
    assert {name: after[name] for name in before} == before
    assert len(after) > 3
    request.getfixturevalue("inline")
    prepare(settings.model_copy(update={"out": str(tmp_path / "whole")}), progress=False)
    assert resumed == contents(tmp_path / "whole")
