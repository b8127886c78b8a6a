"""Digests of what a checkpoint holds, tensor by tensor, whatever number of ranks wrote it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from manta.config.errors import RunError
from manta.state.checkpoint_files import Inventory
from manta.state.dcp import Planner, Reader
from manta.state.loading import quiet_alone
from manta.storage.place import Place
from manta.storage.seal import digest

THREADS = 4
# What a checkpoint has the names of weights under, and those of the optimizer's state.
MODEL, OPTIMIZER = "model.", "optimizer."
# Bytes of tensors that are read at a time.
READ_BYTES = 2**30


def digests(checkpoint: Place, under: str = MODEL) -> dict[str, str]:
    """The SHA-256 of each tensor in a checkpoint: of its type, shape and values.

    Args:
        checkpoint: the checkpoint's folder, or its URL in a store.
        under: beginning of the names to look at; names are returned without it.

    Raises:
        RunError: if the checkpoint can't be read, or is not as it was written.
    """
    try:
        inventory = Inventory.read(checkpoint)
        reader = Reader(checkpoint, inventory.stamp, inventory.checksums)
        known = reader.read_metadata().state_dict_metadata
        for name in inventory.checksums:
            reader.check(name)
    except (OSError, ValueError) as error:
        raise RunError(f"{checkpoint}: {error}; take another checkpoint") from None
    tensors = {
        name: about
        for name, about in known.items()
        if name.startswith(under) and isinstance(about, TensorStorageMetadata)
    }
    found: dict[str, str] = {}
    with ThreadPoolExecutor(THREADS) as threads:
        for names in _batches(tensors):
            content = {
                name: torch.empty(tensors[name].size, dtype=tensors[name].properties.dtype)
                for name in names
            }
            with quiet_alone():
                state_dict_loader.load(
                    content, storage_reader=reader, planner=Planner(), no_dist=True
                )
            told = threads.map(_sha256, content.values())
            found.update(zip((name.removeprefix(under) for name in names), told, strict=True))
    return found


def digest_of(checkpoint: Place, under: str = MODEL) -> str:
    """One SHA-256 of the digests of all tensors; raises as `digests`."""
    return digest(digests(checkpoint, under))


def _batches(tensors: Mapping[str, TensorStorageMetadata]) -> list[list[str]]:
    """Names in order, in groups of READ_BYTES or of one larger tensor."""
    batches: list[list[str]] = [[]]
    held = 0
    for name in sorted(tensors):
        about = tensors[name]
        size = about.size.numel() * about.properties.dtype.itemsize
        if batches[-1] and held + size > READ_BYTES:
            batches.append([])
            held = 0
        batches[-1].append(name)
        held += size
    return batches


def _sha256(tensor: Tensor) -> str:
    told = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    told.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return told.hexdigest()
