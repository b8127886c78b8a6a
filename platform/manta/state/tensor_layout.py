"""The state of model and optimizer as named tensors laid out in one flat buffer.

Each rank describes its own tensors: whole ones where the state is replicated, a range of
rows where FSDP2 has split it. A restore fills each rank's tensors from whatever ranges were
saved, by intersecting rows, so that it works at any world size, split or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from manta.parallel.sharding import reshard
from manta.state.trained import Trained

ALIGN = 64  # bytes: a cache line, and what every dtype divides
MODEL, OPTIMIZER = "model/", "optimizer/"


@dataclass(frozen=True)
class Piece:
    """Rows of a named tensor as a rank has them; a scalar counts as one row.

    Attributes:
        name: the same at any world size.
        local: the rows [first, first + len) on this rank, (rows, …); writes reach the original.
        first: the number of the first row in the whole tensor.
        shape: shape of the whole (unsharded) tensor.
        split: whether other ranks have other rows.
    """

    name: str
    local: Tensor
    first: int
    shape: tuple[int, ...]
    split: bool


@dataclass(frozen=True)
class TensorRows:
    """Where the rows [first, last) of a named tensor lie in a buffer; `offset` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    first: int
    last: int
    offset: int

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape of what lies in the buffer."""
        return (self.last - self.first, *self.shape[1:])

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + prod(self.rows) * _dtype(self.dtype).itemsize

    def view(self, buffer: Tensor) -> Tensor:
        """Its rows in `buffer` (uint8, 1-D), without a copy."""
        return buffer[self.offset : self.end].view(_dtype(self.dtype)).view(self.rows)


def piece(name: str, tensor: Tensor) -> Piece:
    """A tensor of this rank as a piece.

    Raises:
        ValueError: if it is split otherwise than by rows over the last dimension of its mesh.
    """
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        rows = tensor.reshape(1) if tensor.ndim == 0 else tensor
        return Piece(name, rows, 0, tuple(rows.shape), split=False)
    *copies, split = tensor.placements
    if split != Shard(0) or any(each != Replicate() for each in copies):
        raise ValueError(f"{name}: can't be saved with placements {tensor.placements}")
    _, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    first = min(offset[0], tensor.shape[0])  # a rank without rows lies behind the end
    return Piece(name, tensor.to_local(), first, tuple(tensor.shape), split=True)


def pieces_of(trained: Trained) -> list[Piece]:
    """Parameters, persistent buffers and optimizer state of this rank."""
    return [piece(name, tensor) for name, tensor in _named_tensors(trained)]


def _named_tensors(trained: Trained) -> Iterator[tuple[str, Tensor]]:
    if trained.sharded:
        reshard(trained.lm)
    for name, parameter in trained.named_parameters():
        yield MODEL + name, parameter
    for name, buffer in _persistent_buffers(trained):
        yield MODEL + name, buffer
    state = trained.optimizer.state
    for name, parameter in trained.lm.named_parameters():
        for kind, value in state.get(parameter, {}).items():
            yield f"{OPTIMIZER}{name}/{kind}", value


def _persistent_buffers(trained: Trained) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in trained.lm.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer


# ------------------------------------------------------------------------- capture


def arrange(pieces: Iterable[Piece]) -> tuple[list[TensorRows], int]:
    """Where each piece lies in a buffer, and the buffer's size in bytes."""
    entries, end = [], 0
    for one in pieces:
        dtype = str(one.local.dtype).removeprefix("torch.")
        last = one.first + one.local.shape[0]
        entry = TensorRows(one.name, dtype, one.shape, one.first, last, _aligned(end))
        entries.append(entry)
        end = entry.end
    return entries, _aligned(end)


def capture(pieces: Iterable[Piece], entries: Iterable[TensorRows], buffer: Tensor) -> None:
    """Copy pieces to their places in `buffer` (uint8, 1-D, on the host); one copy each."""
    for one, entry in zip(pieces, entries, strict=True):
        entry.view(buffer).copy_(one.local, non_blocking=True)


def to_json(entries: Iterable[TensorRows]) -> list[dict[str, Any]]:
    """Entries as plain values."""
    return [vars(entry) for entry in entries]


def from_json(values: Sequence[Mapping[str, Any]], size: int) -> list[TensorRows]:
    """The reverse of `to_json`, for a buffer of `size` bytes.

    Raises:
        ValueError: if an entry can't be right.
    """
    entries = []
    for value in values:
        try:
            entry = TensorRows(**{**value, "shape": tuple(value["shape"])})
            sound = 0 <= entry.first <= entry.last <= entry.shape[0]
            sound = sound and 0 <= entry.offset <= entry.end <= size
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"entry {value}: {error}") from None
        if not sound or entry.offset % ALIGN:
            raise ValueError(f"entry {asdict(entry)} does not lie in a buffer of {size} bytes")
        entries.append(entry)
    return entries


# ------------------------------------------------------------------------- restore

Saved = dict[str, list[tuple[TensorRows, Tensor]]]  # by name: entries, each with its buffer
Copy = tuple[Tensor, Tensor]  # to, from


def create_optimizer_state(trained: Trained, saved: Saved) -> None:
    """Give a fresh optimizer the empty state that it would create for what was saved."""
    optimizer = trained.optimizer
    groups = {each: group for group in optimizer.param_groups for each in group["params"]}
    kinds: dict[str, dict[str, TensorRows]] = {}
    for name, found in saved.items():
        if name.startswith(OPTIMIZER):
            parameter_name, _, kind = name.removeprefix(OPTIMIZER).rpartition("/")
            kinds.setdefault(parameter_name, {})[kind] = found[0][0]
    for name, parameter in trained.lm.named_parameters():
        for kind, entry in kinds.get(name, {}).items():
            empty = _empty(parameter, kind, entry, groups[parameter])
            optimizer.state[parameter][kind] = empty


def _empty(parameter: Tensor, kind: str, entry: TensorRows, group: Mapping[str, Any]) -> Tensor:
    if kind != "step":
        return torch.zeros_like(parameter, memory_format=torch.preserve_format)
    # As torch.optim.Adam does it: on the device where the whole update is one kernel.
    on_device = group["fused"] or group["capturable"]
    device = parameter.device if on_device else torch.device("cpu")
    return torch.zeros((), dtype=_dtype(entry.dtype), device=device)


def plan(pieces: Iterable[Piece], saved: Saved) -> list[Copy]:
    """Which rows to copy where so that `pieces` become what was saved; nothing is copied yet.

    Raises:
        ValueError: if the saved tensors are not exactly those of this model and optimizer.
    """
    copies: list[Copy] = []
    wanted = set()
    for one in pieces:
        wanted.add(one.name)
        copies += _rows_of(one, saved.get(one.name, []))
    if unknown := sorted(saved.keys() - wanted):
        raise ValueError(f"it holds tensors that the model has not: {', '.join(unknown[:5])}")
    return copies


def _rows_of(one: Piece, found: Sequence[tuple[TensorRows, Tensor]]) -> Iterator[Copy]:
    first, last = one.first, one.first + one.local.shape[0]
    missing = last - first
    for entry, buffer in found:
        if (_dtype(entry.dtype), entry.shape) != (one.local.dtype, one.shape):
            raise ValueError(
                f"{one.name} was saved as {entry.dtype} {entry.shape}, but is "
                f"{one.local.dtype} {one.shape}"
            )
        low, high = max(first, entry.first), min(last, entry.last)
        if low < high:
            missing -= high - low
            source = entry.view(buffer)[low - entry.first : high - entry.first]
            yield one.local[low - first : high - first], source
    if missing or not found:
        raise ValueError(f"{one.name}: {missing} of its {last - first} rows are missing")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name!r} is no dtype")
    return found


def _aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN
