"""A model split over ranks by FSDP2, layer by layer."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate

from manta.config.run import RunConfig
from manta.parallel.exchange import REDUCE_DTYPES
from manta.parallel.mesh import mesh_of

# Names of the dimensions of a mesh; the first is there if there are several copies.
REPLICAS, SHARDS = "replicas", "shards"


def layers_of(lm: nn.Module) -> list[nn.Module]:
    """The layers of a model, which are gathered, and compiled, one at a time."""
    names = set(getattr(lm, "_no_split_modules", None) or ())
    return [
        module
        for module in lm.modules()
        if type(module).__name__ in names and not isinstance(module, nn.Embedding)
    ]


def shard(lm: nn.Module, device: torch.device, config: RunConfig) -> None:
    """Split the parameters over ranks: each layer is a unit, the rest is the root's.

    Torch's own function and not Accelerate's plugin, which is ignored on a CPU.
    """
    over = mesh_of(config.parallel.shard, dist.get_world_size())
    sizes, names = (over.replicas, over.shards), (REPLICAS, SHARDS)
    one = over.replicas == 1
    mesh = init_device_mesh(device.type, sizes[one:], mesh_dim_names=names[one:])
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if config.train.precision == "bf16" else None,
        reduce_dtype=REDUCE_DTYPES[config.parallel.reduce_dtype],
    )
    for layer in layers_of(lm):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(lm, mesh=mesh, mp_policy=policy)


def copies_of(lm: nn.Module) -> dist.ProcessGroup | None:
    """The ranks that hold the same part of a split model as this one; None if it has one copy."""
    parameter = next(lm.parameters())
    assert isinstance(parameter, DTensor)
    mesh = parameter.device_mesh
    return mesh.get_group(REPLICAS) if mesh.ndim > 1 else None


def in_first_copy(tensor: DTensor) -> bool:
    """Whether this rank's part of a tensor belongs to the first copy, which speaks for all."""
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None
    return not any(coordinate[:-1])


def reshard(lm: nn.Module) -> None:
    """Drop the whole weights that FSDP2 may still hold after a forward pass without a backward."""
    for module in lm.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def replicated(value: Tensor, beside: Tensor) -> Tensor:
    """A tensor that every rank has whole, for operations together with the split `beside`."""
    assert isinstance(beside, DTensor)
    mesh = beside.device_mesh
    return DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
