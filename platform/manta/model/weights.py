"""Where a model's weights come from: memory for them first, on each device; values later, once.

A model is made without its weights, laid over devices, and gets its memory there. Values come from
what a run goes on from; only a run that begins draws them, and then its first rank alone, which
hands one tensor after the other to all: no other rank ever holds a whole model in host memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.utils.weak import WeakIdKeyDictionary

from manta.model.mapped_weights import may_share


@contextmanager
def no_memory_for_parameters() -> Iterator[None]:
    """In it, modules that are made get their buffers, but parameters are on `meta`."""
    register = nn.Module.register_parameter
    made = WeakIdKeyDictionary()

    def registering(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            if parameter not in made:  # one that two modules share stays one
                made[parameter] = nn.Parameter(parameter.detach().to("meta"))
                made[parameter].requires_grad_(parameter.requires_grad)
            parameter = made[parameter]
        register(module, name, parameter)

    nn.Module.register_parameter = registering  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def without_values(lm: nn.Module) -> bool:
    """Whether parameters have no memory yet."""
    return any(parameter.is_meta for parameter in lm.parameters())


def move_buffers(lm: nn.Module, device: torch.device) -> None:
    """Have the buffers on `device`, as `lm.to` would."""
    for module in lm.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)


def give_memory(lm: nn.Module, device: torch.device, *, sharded: bool) -> None:
    """Give the parameters memory on `device`, with arbitrary content. Buffers stay as they are."""
    buffers = [(module, dict(module._buffers)) for module in lm.modules()]
    if sharded:
        lm.to_empty(device=device)  # FSDP2 takes note of it
    else:
        _give_memory_whole(lm, device)
    for module, kept in buffers:
        module._buffers.update(kept)


def _give_memory_whole(lm: nn.Module, device: torch.device) -> None:
    made: dict[nn.Parameter, nn.Parameter] = {}  # as modules share parameters
    for module in lm.modules():
        for name, old in module._parameters.items():
            if old is None:
                continue
            if old not in made:
                made[old] = nn.Parameter(
                    torch.empty_like(old, device=device), requires_grad=old.requires_grad
                )
            module._parameters[name] = made[old]


@torch.no_grad()
def fill(lm: nn.Module, build: Callable[[], nn.Module]) -> None:
    """Fill parameters and buffers with those of a model that the first rank builds.

    All ranks must call together. The first one's host holds the whole model for a moment; of what
    is frozen on a CPU it keeps the memory that the values were read to (`mapped_weights`).

    Args:
        lm: the model, with memory on its device, sharded or not, of any floating type.
        build: makes the same model on the host, not sharded; its values are rounded to lm's type.
    """
    alone = not dist.is_initialized() or dist.get_world_size() == 1
    first = alone or dist.get_rank() == 0
    source = dict(_tensors_of(build())) if first else {}
    for name, target in _tensors_of(lm):
        whole = source.pop(name).detach().to(target.dtype) if first else _whole_like(target)
        whole = whole.contiguous().to(target.device)
        if not alone:
            # As bytes: gloo does not know all types.
            dist.broadcast(whole.reshape(-1).view(torch.uint8), src=0)
        if first and may_share(target, whole):
            target.data = whole
        else:
            _take(target.detach(), whole)


def _tensors_of(lm: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and then buffers, by name."""
    yield from lm.named_parameters()
    yield from lm.named_buffers()


def _whole_like(target: Tensor) -> Tensor:
    return torch.empty(target.shape, dtype=target.dtype, device=target.device)


def _take(target: Tensor, whole: Tensor) -> None:
    """Copy into `target` what this rank has of a tensor."""
    if not isinstance(target, DTensor):
        target.copy_(whole)
        return
    shape, offset = compute_local_shape_and_global_offset(
        target.shape, target.device_mesh, target.placements
    )
    for dimension, (length, first) in enumerate(zip(shape, offset, strict=True)):
        whole = whole.narrow(dimension, min(first, whole.shape[dimension]), length)
    target.to_local().copy_(whole)
