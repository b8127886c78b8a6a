"""Checksums of checkpoints: right, and computed beside the thread that writes."""

from __future__ import annotations

import hashlib
import io
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import state_dict_saver

from manta.state import hashing
from manta.state.dcp import Writer
from manta.state.hashing import MOST_WAITING, PIECE, HashingStream, hashed
from manta.state.loading import quiet_alone


@pytest.mark.parametrize(
    "sizes",
    [[], [1], [PIECE - 1, 1, 1], [30] * 5000, [7, PIECE, 9], [3 * PIECE + 5], [40 * PIECE]],
)
def test_what_is_hashed_is_what_is_written(tmp_path: Path, sizes: list[int]) -> None:
    path, sums = tmp_path / "x", dict[str, str]()
    with hashed(path.open("wb"), path, sums) as stream:  # type: ignore[arg-type]
        for number, size in enumerate(sizes):
            content = bytearray([number % 251]) * size
            assert stream.write(memoryview(content)) == size
            content[:] = bytes(size)  # it is the writer's own again
    content = path.read_bytes()
    assert len(content) == sum(sizes)
    assert sums == {"x": hashlib.sha256(content).hexdigest()}


def test_a_writer_waits_for_a_hash_that_falls_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the copies that are not hashed would fill the memory."""
    file, ahead = io.BytesIO(), list[int]()

    class Behind:
        """Hashes nothing before the writer is as far ahead as it ever comes."""

        def __init__(self) -> None:
            self._hashed = 0

        def update(self, content: Any) -> None:
            while file.tell() < min(self._hashed + MOST_WAITING * PIECE, 40 * PIECE):
                assert writer.is_alive()
            ahead.append(file.tell() - self._hashed)
            self._hashed += len(content)

    monkeypatch.setattr(hashing, "hashlib", SimpleNamespace(sha256=Behind))
    stream = HashingStream(file)
    writer = threading.Thread(target=lambda: stream.write(bytes(40 * PIECE)))
    writer.start()
    writer.join()
    stream.end()
    assert file.tell() == 40 * PIECE
    assert max(ahead) <= (MOST_WAITING + 2) * PIECE


def test_a_lone_ranks_save_hashes_beside_the_thread_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by: set[int] = set()

    class Watched:
        def __init__(self) -> None:
            self._real = hashlib.sha256()

        def update(self, content: Any) -> None:
            by.add(threading.get_ident())
            self._real.update(content)

        def hexdigest(self) -> str:
            return self._real.hexdigest()

    monkeypatch.setattr(hashing, "hashlib", SimpleNamespace(sha256=Watched))
    writer = Writer(tmp_path)
    content = {"model": {f"t{i}": torch.randn(2**20) for i in range(4)}}
    with quiet_alone():
        state_dict_saver.save(content, storage_writer=writer, no_dist=True)
    assert by
    assert threading.get_ident() not in by
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert writer.checksums == {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items()
    }
