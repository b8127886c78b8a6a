"""The node's cache: one fetch however many ask, a bound, and nothing removed that is in use."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from manta.config.errors import ConfigError
from manta.storage.cache import BYTES, Cache, parse_bytes

KB = 1000


def fetching(size: int, log: list[str] | None = None) -> Callable[[BinaryIO], None]:
    def fetch(out: BinaryIO) -> None:
        out.write(b"x" * size)

    return fetch


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv(BYTES, "10K")
    return Cache(tmp_path)


def names(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def test_what_was_not_used_for_longest_goes_first(cache: Cache) -> None:
    for number, key in enumerate("abc"):
        held = cache.hold(key, 3 * KB, fetching(3 * KB))
        held.release()
        os.utime(held.path, (number, number))
    cache.hold("a", 3 * KB, fetching(0)).release()  # there already; used again
    cache.hold("d", 3 * KB, fetching(3 * KB)).release()
    assert names(cache) == ["a", "c", "d"]
    assert (cache.folder / "a").stat().st_size == 3 * KB


def test_what_is_held_stays_and_is_said_to_be_too_much(cache: Cache, caplog) -> None:
    held = [cache.hold(key, 4 * KB, fetching(4 * KB)) for key in "abc"]
    assert names(cache) == ["a", "b", "c"]
    assert f"raise {BYTES}" in caplog.text
    held[1].release()
    cache.hold("d", KB, fetching(KB))
    assert names(cache) == ["a", "c", "d"]


def test_what_nobody_holds_any_more_can_go(cache: Cache) -> None:
    held = cache.hold("a", 8 * KB, fetching(8 * KB))
    del held
    cache.hold("b", 8 * KB, fetching(8 * KB))
    assert names(cache) == ["b"]


def test_a_failed_fetch_leaves_nothing(cache: Cache) -> None:
    def fail(out: BinaryIO) -> None:
        out.write(b"half")
        raise OSError("the line was cut")

    with pytest.raises(OSError, match="cut"):
        cache.hold("a", KB, fail)
    assert names(cache) == []
    cache.hold("a", KB, fetching(KB))


def test_what_a_killed_process_left_in_part_is_removed(cache: Cache) -> None:
    (cache.folder / "a.partial").write_bytes(bytes(9 * KB))
    cache.hold("b", 2 * KB, fetching(2 * KB))
    assert names(cache) == ["b"]


def _ask(folder: Path, counts: Path, number: int, ready) -> None:
    cache = Cache(folder)
    ready.wait()
    for turn in range(40):
        key = f"key-{(turn * 7 + number) % 8}"

        def fetch(out: BinaryIO, key: str = key) -> None:
            with (counts / key).open("a") as told:
                told.write("fetched\n")
            out.write(key.encode() * 200)

        held = cache.hold(key, 200 * len(key), fetch)
        assert held.path.read_bytes() == key.encode() * 200, "removed or half-written while held"
        held.release()


@pytest.mark.parametrize(("bound", "fetches"), [("1M", 1), ("3K", None)])
def test_many_processes_at_once(tmp_path: Path, monkeypatch, bound: str, fetches: int | None):
    monkeypatch.setenv(BYTES, bound)
    counts = tmp_path / "counts"
    counts.mkdir()
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    processes = [
        context.Process(target=_ask, args=(tmp_path, counts, number, ready)) for number in range(4)
    ]
    for process in processes:
        process.start()
    ready.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    found = {path.name: len(path.read_text().splitlines()) for path in counts.iterdir()}
    assert len(found) == 8
    if fetches is not None:
        assert set(found.values()) == {fetches}
    kept = sum(path.stat().st_size for path in (tmp_path / "files").iterdir())
    assert kept <= parse_bytes(bound)


def test_sizes() -> None:
    assert [parse_bytes(text) for text in ("12", "1.5k", "200G", "1 TB")] == [
        12,
        1500,
        200 * 10**9,
        10**12,
    ]
    with pytest.raises(ConfigError, match=f"{BYTES} = 'much'"):
        parse_bytes("much")
