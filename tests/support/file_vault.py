"""Memory for snapshots in plain files: outlives the ranks of a test, without Ray."""

from __future__ import annotations

import json
import mmap
import os
import struct
from pathlib import Path

from manta.state.vault import Prepare, SnapshotShard, Stamp

HEAD = struct.Struct("qq48x")  # the stamp at the head of a buffer: zero while it is written


class FileVault:
    """Two files a rank, written in turn. While a file ``busy`` is there, nothing is free."""

    def __init__(self, folder: Path, rank: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._rank, self._size = folder, rank, 0
        self._slot = 0

    def prepare_with(self, prepare: Prepare) -> None:
        pass  # a file is mapped anew for each snapshot

    def free(self, size: int) -> bool:
        self._size = max(size, self._size)
        return not (self._folder / "busy").exists()

    def buffer(self) -> memoryview:
        mine = [(s, slot) for slot in (0, 1) if (s := _stamp(self._data(slot))) is not None]
        self._slot = 1 - max(mine)[1] if mine else 0
        with self._data(self._slot).open("a+b") as file:
            file.truncate(HEAD.size + self._size)
            self._map = mmap.mmap(file.fileno(), 0)
        self._map[: HEAD.size] = bytes(HEAD.size)
        return memoryview(self._map)[HEAD.size :]

    def commit(self, stamp: Stamp, parts: int, header: bytes) -> None:
        note = json.dumps({"stamp": stamp, "parts": parts}).encode()
        aside = self._folder / f"aside-{self._rank}"
        aside.write_bytes(note + b"\n" + header)
        os.replace(aside, self._data(self._slot).with_suffix(".head"))
        self._map[: HEAD.size] = HEAD.pack(*stamp)

    def whole(self) -> list[Stamp]:
        found: dict[Stamp, list[int]] = {}
        for _, stamp, parts, _ in self._shards():
            found.setdefault(stamp, []).append(parts)
        return [stamp for stamp, parts in found.items() if len(parts) == parts[0]]

    def open(self, stamp: Stamp) -> list[SnapshotShard]:
        return [
            SnapshotShard(header, memoryview(bytearray(path.read_bytes()))[HEAD.size :])
            for path, this, _, header in self._shards()
            if this == stamp
        ]

    def settle(self, seconds: float) -> bool:
        return True

    def since(self, stamp: Stamp) -> None:
        pass

    def release(self) -> None:
        pass

    def _shards(self):
        for path in sorted(self._folder.glob("*.data")):
            head = path.with_suffix(".head")
            if not head.exists():
                continue
            note, header = head.read_bytes().split(b"\n", 1)
            stamp = Stamp(*json.loads(note)["stamp"])
            if _stamp(path) == stamp:
                yield path, stamp, json.loads(note)["parts"], header

    def _data(self, slot: int) -> Path:
        return self._folder / f"{self._rank}-{slot}.data"


def _stamp(path: Path) -> Stamp | None:
    if not path.exists():
        return None
    step, attempt = HEAD.unpack(path.read_bytes()[: HEAD.size])
    return Stamp(step, attempt) if step else None
