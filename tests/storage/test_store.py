"""A store behaves as a folder does where runs need it to, on a real S3 server and on file://."""

from __future__ import annotations

import fcntl
import gzip
import os
import pickle
from pathlib import Path

import pytest
from s3_server import S3Server

from manta.config.errors import ConfigError, RunError
from manta.storage.place import copy, place_of, put, remove, tree
from manta.storage.probe import check_writable
from manta.storage.store import StorePath
from manta.storage.working import pull, pull_all, tidy, working_folder


@pytest.fixture(params=["s3", "file", "folder"])
def place(request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path):
    """A place of each kind."""
    if request.param == "s3":
        return place_of(s3.url(f"store/{tmp_path.name}"))
    return place_of(f"file://{tmp_path}/x" if request.param == "file" else f"{tmp_path}/x")


def test_files_of_a_place(place) -> None:
    assert tree(place) == {}
    assert not (place / "a").exists()
    with pytest.raises(FileNotFoundError):
        (place / "a").read_bytes()
    put(place / "a", b"first")
    put(place / "a", b"second")
    put(place / "deep" / "b", b"")
    large = os.urandom(12 * 2**20)  # sent in parts
    put(place / "deep" / "c", large)
    assert tree(place) == {"a": 6, "deep/b": 0, "deep/c": len(large)}
    assert (place / "a").read_text() == "second"
    assert (place / "deep" / "c").read_bytes() == large
    assert [found.name for found in sorted((place / "deep").glob("[bc]"))] == ["b", "c"]
    put(place / "other" / "d", b"")
    copy(place / "deep" / "c", place / "other" / "c")
    remove(place / "deep", "b")
    remove(place / "deep", "b")
    assert tree(place) == {"a": 6, "other/c": len(large), "other/d": 0}
    (place / "a").unlink()
    (place / "a").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (place / "a").unlink()


def test_a_packed_file_is_kept_as_it_is(place) -> None:
    """Whatever its name says: Arrow by itself would pack what is called so once more."""
    packed = gzip.compress(b"example")
    put(place / "a.jsonl.gz", packed)
    assert (place / "a.jsonl.gz").read_bytes() == packed


def test_a_place_travels_to_other_processes(place) -> None:
    put(place / "a", b"1")
    assert tree(pickle.loads(pickle.dumps(place))) == {"a": 1}


def test_names_and_options() -> None:
    run = place_of("s3://bucket/a/?region=eu") / "b"
    assert str(run) == "s3://bucket/a/b?region=eu"
    assert (run.name, str(run.parent)) == ("b", "s3://bucket/a?region=eu")
    assert str(place_of("file:///a/b") / "c") == "file:///a/b/c"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:secret@bucket/x", "a password or key in a URL"),
        ("s3://bucket/../x", "may not have"),
        ("s3://bucket//x", "may not have"),
        ("ftp://bucket/x", "unknown store"),
    ],
)
def test_a_url_that_can_be_no_place_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        place_of(url)
    assert "secret" not in str(error.value)


def test_what_is_wrong_with_a_store_is_said_with_a_remedy(s3: S3Server) -> None:
    check_writable(place_of(s3.url("fine")), "run.storage")
    assert ".probe" not in str(tree(place_of(s3.url("fine"))))
    nowhere = s3.url("x").replace("s3://bucket/", "s3://no-such-bucket/")
    with pytest.raises(RunError, match=r"run\.storage = 's3://no-such-.*there is no such bucket"):
        check_writable(place_of(nowhere), "run.storage")
    deaf = "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    with pytest.raises(RunError, match="the store can't be reached: correct endpoint_override"):
        check_writable(place_of(deaf), "run.storage")
    with pytest.raises(RunError, match=r"unknown options \['regoin'\]: use region, "):
        check_writable(place_of("s3://bucket/x?regoin=us"), "run.storage")
    with pytest.raises(RunError, match=r"request_timeout = 'soon' of the URL must be a number"):
        check_writable(place_of("s3://bucket/x?request_timeout=soon"), "run.storage")


def test_folders_that_nobody_used_for_a_week_are_removed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path))
    for name in ("old", "new", "busy"):
        folder = working_folder(place_of(f"s3://bucket/{name}"))
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(name)
        (folder / ".lock").write_text("")
        if name != "new":
            for path in folder.iterdir():
                os.utime(path, (1, 1))
    with (folder / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tidy()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["busy", "new"]


def test_the_store_wins_over_what_an_earlier_driver_left(s3: S3Server, tmp_path, monkeypatch):
    monkeypatch.setenv("MANTA_CACHE", str(tmp_path))
    sweep = place_of(s3.url("pulled/sweep"))
    assert isinstance(sweep, StorePath)
    put(sweep / "sweep.json", b"new")
    put(sweep / "t0" / "run.json", b"its")
    put(sweep / "t0" / "checkpoints" / "step-1" / "state.json", b"large")
    put(sweep / ".lease.json", b"who")
    put(sweep / ".hidden" / "run.json", b"whose")
    folder = working_folder(sweep)
    assert folder.is_relative_to(tmp_path)
    assert working_folder(sweep / "t0") == folder / "t0"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_bytes(b"old")
    (folder / "metrics.jsonl").write_bytes(b"old")
    (folder / ".lock").write_bytes(b"here")
    pull(sweep, folder)
    assert tree(folder) == {"sweep.json": 3, ".lock": 4}
    pull_all(sweep, folder)
    assert tree(folder) == {"sweep.json": 3, ".lock": 4, "t0/run.json": 3}
    other = sweep.url.replace("region=us-east-1", "region=eu-west-1")
    assert working_folder(place_of(other)) != folder, "the same name on another server"
