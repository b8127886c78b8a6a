"""Torch's distributed checkpoint on our places, and without its pickles.

A folder's files go to disk, those of a store are streamed to it as they are made; the checksum of
each is taken of what is written, in the thread that writes it. Read from a store, they come by the
node's cache: each file once a node, however many ranks need it, and only those that they need.

Torch unpickles a checkpoint's ``.metadata``, and what in it is no tensor, with a pickle that may
run anything. Whoever can write to the storage must not be able to run code on its readers: here
the first is read by an unpickler that knows nothing but the few types it is made of, and the
second by Torch's own that loads weights only.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import (
    FileSystem,
    FileSystemReader,
    FileSystemWriter,
)
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from manta.config.errors import RunError
from manta.state.hashing import hashed
from manta.storage.cache import Cache, CachedFile
from manta.storage.place import Place
from manta.storage.store import CHUNK, StorePath

METADATA = ".metadata"
# All that the metadata of a checkpoint of ours is made of, beside numbers, texts and containers.
_DCP = "torch.distributed.checkpoint.metadata"
KNOWN = {
    *((_DCP, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
    *((_DCP, name) for name in ("TensorStorageMetadata", "BytesStorageMetadata")),
    *((_DCP, name) for name in ("ChunkStorageMetadata", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),  # where it was written, in older checkpoints
}


class _Unpickler(pickle.Unpickler):
    """Makes what `KNOWN` names and Torch's dtypes, and refuses the rest."""

    def find_class(self, module: str, name: str) -> Any:
        known = (module, name) in KNOWN
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint is made of")


def read_metadata(file: BinaryIO, where: object) -> Metadata:
    """The metadata of a checkpoint; nothing in it is executed.

    Raises:
        RunError: if it is not what Torch writes.
    """
    try:
        metadata = _Unpickler(file).load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise RunError(f"{where}: refused as the metadata of a checkpoint: {error}") from None
    if not isinstance(metadata, Metadata):
        raise RunError(f"{where}: refused as the metadata of a checkpoint: it is something else")
    return metadata


class Planner(DefaultLoadPlanner):
    """Torch's, but what is no tensor is not unpickled either."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put what was read in its place."""
        loaded = torch.load(value, weights_only=True)
        # With flattened names, as always here; the default planner does the same.
        set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], loaded)


class Reader(FileSystemReader):
    """Reads a checkpoint from a place.

    Args:
        checkpoint: the checkpoint's folder.
        stamp: differs from that of any other checkpoint that ever had this folder.
        checksums: SHA-256 of its files by name, as far as they are known.
    """

    def __init__(self, checkpoint: Place, stamp: str, checksums: Mapping[str, str]):
        super().__init__(checkpoint if isinstance(checkpoint, Path) else checkpoint.name)
        self._checkpoint, self.checksums = checkpoint, checksums
        if isinstance(checkpoint, StorePath):
            self.fs = _CachedFiles(checkpoint, stamp)

    def check(self, name: str) -> None:
        """Compare a file with its checksum.

        Raises:
            ValueError: if it is another, or can't be read.
        """
        try:
            with self.fs.create_stream(self.fs.concat_path(self.path, name), "rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        except OSError as error:
            raise ValueError(f"{name} can't be read: {error}") from None
        if found != self.checksums[name]:
            if isinstance(self.fs, _CachedFiles):
                self.fs.forget(name)
            raise ValueError(f"{name} was changed: its checksum is not that of what was written")

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The checkpoint's metadata; compared with its checksum first, if there is one."""
        if METADATA in self.checksums:
            self.check(METADATA)
        with self.fs.create_stream(self.fs.concat_path(self.path, METADATA), "rb") as file:
            metadata = read_metadata(file, self._checkpoint / METADATA)  # type: ignore[arg-type]
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


class _StoredFiles(FileSystem):
    """The files of a checkpoint in a store, by their names in it."""

    def __init__(self, checkpoint: StorePath):
        self._checkpoint = checkpoint

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        return suffix

    def init_path(self, path: str | os.PathLike[str]) -> str | os.PathLike[str]:
        return path


class _CachedFiles(_StoredFiles):
    """Files that are read by way of the node's cache."""

    def __init__(self, checkpoint: StorePath, stamp: str):
        super().__init__(checkpoint)
        self._stamp = stamp
        self._sizes: dict[str, int] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        assert mode == "rb", "a checkpoint is only read here"
        held = self._hold(os.fspath(path))
        try:
            with held.path.open("rb") as stream:
                yield stream
        finally:
            held.release()

    def forget(self, name: str) -> None:
        """Have a file fetched anew when it is next asked for: this node's copy may be at fault."""
        held = self._hold(name)
        held.path.unlink(missing_ok=True)
        held.release()

    def _hold(self, name: str) -> CachedFile:
        file = self._checkpoint / name
        self._sizes = self._sizes or self._checkpoint.files()
        if file.name not in self._sizes:
            raise FileNotFoundError(f"{file}: not there")
        key = hashlib.sha256(f"{file} {self._stamp}".encode()).hexdigest()

        def fetch(out: BinaryIO) -> None:
            with file.open_input() as source:
                while chunk := source.read(CHUNK):
                    out.write(chunk)

        return Cache().hold(key, self._sizes[file.name], fetch)


def share_of(content: Mapping[str, Any], rank: int, ranks: int) -> dict[str, Any]:
    """What one of `ranks` saves of content that all have: about as many bytes as each other.

    Torch stages all that it is given, on each rank, and only then finds that others have it too:
    so many times the state in the host memory of a node, and so much longer a pause.

    Ranks may have the content in different orders: one that got its state from another has an
    optimizer that was filled by name. So what is equally large is dealt out by name.
    """
    leaves = sorted(_leaves(content), key=lambda leaf: (-_bytes_of(leaf[1]), leaf[0]))
    loads, mine = [0] * ranks, dict[str, Any]()
    for path, value in leaves:
        writer = loads.index(min(loads))
        loads[writer] += _bytes_of(value)
        if writer == rank:
            _put(mine, path, value)
    return mine


def _leaves(content: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What is no mapping, with its keys."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from (((key, *rest), leaf) for rest, leaf in _leaves(value))
        else:
            yield (key,), value


def _bytes_of(value: Any) -> int:
    return value.nbytes if isinstance(value, torch.Tensor) else 0


def _put(into: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        into = into.setdefault(key, {})
    into[path[-1]] = value


@dataclass(frozen=True)
class _Written(WriteResult):
    """What Torch tells the first rank of a tensor that was written, and its file's checksum."""

    checksum: str


class Writer(FileSystemWriter):
    """Writes a checkpoint to a place. It counts only once its mark is written, by others.

    Attributes:
        checksums: SHA-256 of each file by name, on the first rank once all is written.
    """

    def __init__(self, checkpoint: Place):
        # Of a store nothing need be forced to a disk: an object that was taken is kept.
        on_disk = isinstance(checkpoint, Path)
        # Copying ahead is for tensors on a device. These are in host memory when they are written,
        # and its thread would wait for training's stream, and open a context on device 0.
        super().__init__(
            str(checkpoint) if on_disk else "", sync_files=on_disk, per_thread_copy_ahead=0
        )
        self._checkpoint = checkpoint
        files = _StreamedFiles(checkpoint) if isinstance(checkpoint, StorePath) else _WrittenFiles()
        self.fs, self.checksums = files, files.checksums

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Before any rank writes, and on the first alone: an old one of that name goes."""
        if isinstance(self._checkpoint, StorePath):
            self._checkpoint.remove_tree()
        return super().prepare_global_plan(plans)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's part."""
        results: list[WriteResult] = super().write_data(plan, planner).wait()
        hashed: Future[list[WriteResult]] = Future()
        hashed.set_result(
            [
                _Written(**vars(result), checksum=self.checksums[result.storage_data.relative_path])
                for result in results
            ]
        )
        return hashed

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write what ties all parts together, on the first rank."""
        for written in (one for part in results for one in part):
            assert isinstance(written, _Written)
            self.checksums[written.storage_data.relative_path] = written.checksum
        super().finish(metadata, results)


class _WrittenFiles(FileSystem):
    """Files of a folder."""

    def __init__(self) -> None:
        self.checksums: dict[str, str] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        with hashed(super().create_stream(path, mode), path, self.checksums) as stream:
            yield stream


class _StreamedFiles(_StoredFiles):
    """Files of a store, written from begin to end."""

    def __init__(self, checkpoint: StorePath):
        super().__init__(checkpoint)
        self.checksums: dict[str, str] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        assert mode == "wb", "a checkpoint is only written here"
        # What is written aside and then renamed, for a disk's sake, appears whole here anyway.
        file = self._checkpoint / os.fspath(path).removesuffix(".tmp")
        with hashed(file.open_output(), path, self.checksums) as stream:
            yield stream

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Nothing: see `create_stream`."""

    def exists(self, path: str | os.PathLike[str]) -> bool:
        """No: what was there before was removed."""
        return False

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Nothing: a store has no folders."""
