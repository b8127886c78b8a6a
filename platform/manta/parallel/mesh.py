"""How ranks share a model that is split: by how many one copy of it is held, and how many copies.

Pure. With one copy over all ranks this is FSDP2, with several it is hybrid sharding (HSDP):
gradients are summed over the ranks of a copy, and then over copies.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ShardMesh:
    """The ranks of a split model: rank r holds part r % shards of copy r // shards.

    Attributes:
        replicas: number of copies.
        shards: number of ranks that share one copy.
    """

    replicas: int
    shards: int

    def holds_first_copy(self, rank: int) -> bool:
        """Whether a rank holds a part of the first copy, which speaks for all."""
        return rank < self.shards


def mesh_of(shard: bool | int, world_size: int) -> ShardMesh:
    """The mesh of a group that splits its model.

    Any number of ranks trains, and no rank holds more than 1 / `shard` of a copy: where `shard`
    doesn't divide the number of ranks, the next larger number that does is taken.

    Args:
        shard: `parallel.shard`: the fewest ranks that share one copy; True for all.
        world_size: number of ranks.
    """
    if shard is True:
        return ShardMesh(1, world_size)
    fits = (n for n in range(min(shard, world_size), world_size + 1) if world_size % n == 0)
    shards = next(fits)
    return ShardMesh(world_size // shards, shards)
