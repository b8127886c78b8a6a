"""A digest of a saved model: of its weights by name, and of what its config makes of them.

Files are read as they lie on disk, without Torch: a driver takes it before anything is loaded. How
weights are cut into files doesn't count.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from manta.storage.seal import digest

CONFIG = "config.json"
SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
# Keys of a config that say who wrote it, not what the model computes.
WRITER = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")
# Read at a time, and threads that hash beside each other: hashlib lets go of the interpreter.
PIECE, THREADS = 16 * 2**20, 4


def fingerprint(folder: Path) -> str:
    """The digest of a model in a folder of Transformers.

    Weights as safetensors are told by name, type, shape and values; others by their files.

    Raises:
        OSError, ValueError: if there is no model, or it can't be read.
    """
    config = json.loads((folder / CONFIG).read_bytes())
    told = {key: value for key, value in config.items() if key not in WRITER}
    with ThreadPoolExecutor(THREADS) as threads:
        return digest({"config": told, "weights": dict(threads.map(_told, _pieces(folder)))})


def weight_files(folder: Path) -> list[Path]:
    """The files that Transformers loads a model's weights from.

    Raises:
        OSError, ValueError: if there are none, or their index can't be read.
    """
    for name in (SAFETENSORS, PICKLED):
        index = folder / f"{name}.index.json"
        if index.exists():
            named = json.loads(index.read_bytes())["weight_map"].values()
            return [folder / one for one in sorted(set(named))]
        if (folder / name).exists():
            return [folder / name]
    raise FileNotFoundError(f"neither {SAFETENSORS} nor {PICKLED} is in {folder}")


class _Piece:
    """Bytes of a file that are told under a name."""

    def __init__(self, name: str, path: Path, first: int, size: int, about: Any = None):
        self.name, self.path, self.first, self.size, self.about = name, path, first, size, about


def _pieces(folder: Path) -> Iterator[_Piece]:
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            yield from _tensors(path)
        else:
            yield _Piece(path.name, path, 0, path.stat().st_size)


def _tensors(path: Path) -> Iterable[_Piece]:
    """The tensors of a file, by its header: https://github.com/huggingface/safetensors#format."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    for name, tensor in header.items():
        if name != "__metadata__":
            first, end = tensor["data_offsets"]
            about = [tensor["dtype"], tensor["shape"]]
            yield _Piece(name, path, 8 + length + first, end - first, about)


def _told(piece: _Piece) -> tuple[str, Any]:
    """What is told of some bytes, by their name."""
    sha256, left = hashlib.sha256(), piece.size
    with piece.path.open("rb") as file:
        file.seek(piece.first)
        while left and (read := file.read(min(left, PIECE))):
            sha256.update(read)
            left -= len(read)
    if left:
        raise ValueError(f"{piece.path} is cut off: {left:,} bytes are missing of {piece.name}")
    return piece.name, [piece.about, sha256.hexdigest()]
