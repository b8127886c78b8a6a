"""Torch's distributed checkpoint on our places, and without its pickles.

A folder's files go to disk, those of a store are streamed to it as they are made. Read from a
store, they come by the node's cache: each file once a node, however many ranks need it, and
only those that they need.

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
from collections.abc import Iterator
from contextlib import contextmanager
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
from torch.distributed.checkpoint.planner import ReadItem, SavePlan

from manta.config.errors import RunError
from manta.storage.cache import Cache
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
        checkpoint: its folder.
        stamp: differs from that of any other checkpoint that ever had this folder.
    """

    def __init__(self, checkpoint: Place, stamp: str):
        super().__init__(checkpoint if isinstance(checkpoint, Path) else checkpoint.name)
        self._checkpoint = checkpoint
        if isinstance(checkpoint, StorePath):
            self.fs = _CachedFiles(checkpoint, stamp)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The checkpoint's metadata."""
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
        file = self._checkpoint / os.fspath(path)
        self._sizes = self._sizes or self._checkpoint.files()
        if file.name not in self._sizes:
            raise FileNotFoundError(f"{file}: not there")
        key = hashlib.sha256(f"{file} {self._stamp}".encode()).hexdigest()

        def fetch(out: BinaryIO) -> None:
            with file.open_input() as source:
                while chunk := source.read(CHUNK):
                    out.write(chunk)

        held = Cache().hold(key, self._sizes[file.name], fetch)
        try:
            with held.path.open("rb") as stream:
                yield stream
        finally:
            held.release()


class Writer(FileSystemWriter):
    """Streams a checkpoint to a store. It counts only once its mark is written, by others."""

    def __init__(self, checkpoint: StorePath):
        # Nothing to force to a disk: an object that was taken is kept.
        super().__init__("", sync_files=False)
        self._checkpoint = checkpoint
        self.fs = _StreamedFiles(checkpoint)

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Before any rank writes, and on the first alone: an old one of that name goes."""
        self._checkpoint.remove_tree()
        return super().prepare_global_plan(plans)


class _StreamedFiles(_StoredFiles):
    """Files that are written from begin to end."""

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        assert mode == "wb", "a checkpoint is only written here"
        # What is written aside and then renamed, for a disk's sake, appears whole here anyway.
        with (self._checkpoint / os.fspath(path).removesuffix(".tmp")).open_output() as stream:
            yield stream

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Nothing: see `create_stream`."""

    def exists(self, path: str | os.PathLike[str]) -> bool:
        """No: what was there before was removed."""
        return False

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Nothing: a store has no folders."""
