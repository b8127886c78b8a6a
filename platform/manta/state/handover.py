"""What survivors of a worker group still have of a run, and how all ranks of the next group get it.

A rank whose process outlives its group keeps model, optimizer and journal. In the next group the
rank that is furthest gives them to those that are behind or have just come: nobody reads storage,
and no step is trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manta.parallel.ranks import Ranks
from manta.state import tensor_layout
from manta.state.checkpoint_files import TrainState
from manta.state.journal import RowTable
from manta.state.tensor_layout import Piece, Saved, TensorRows
from manta.state.trained import Trained
from manta.state.vault import Stamp

# Bytes that are sent at a time: small tensors together.
CHUNK = 32 * 2**20


@dataclass(frozen=True)
class LiveState:
    """A run after a step, as one rank has it beside model and optimizer.

    Attributes:
        state: the state that training continues from.
        ledger: rows that the ledger on disk may lack.
        metrics: rows that the driver may lack.
        snapshot: stamp of the newest snapshot that is certainly whole; None if there is none.
        first: whether the rank was the first one, which knows what the driver has.
    """

    state: TrainState
    ledger: RowTable
    metrics: Sequence[Mapping[str, Any]]
    snapshot: Stamp | None
    first: bool

    def ledger_after(self, step: int) -> RowTable:
        """The rows of the steps behind `step`.

        Raises:
            ValueError: if some are missing.
        """
        rows = self.ledger[self.ledger[:, 0] > step]
        if not np.array_equal(rows[:, 0], np.arange(step + 1, self.state.step + 1)):
            raise ValueError(
                f"the ledger ends at step {step}, and the rows up to step {self.state.step} "
                "are not all in memory"
            )
        return rows


def hand_over(
    trained: Trained, mine: LiveState | None, overwriting: Callable[[], None] = lambda: None
) -> tuple[Trained, LiveState | None]:
    """Have all ranks hold what the furthest of them holds. All must call together.

    Args:
        trained: model and optimizer of this rank, whole or without values; not sharded.
        mine: live state of this rank; None if it has just come.
        overwriting: called before this rank's own state is overwritten by a later one.

    Returns:
        What is trained, and the common live state; None, and nothing changed, if no rank has any.
    """
    ranks = trained.ranks
    step = mine.state.step if mine is not None else -1
    known = mine is not None and mine.first
    table = ranks.gathered(torch.tensor([step, known], device=ranks.device)).tolist()
    source = max(range(ranks.world_size), key=lambda rank: (table[rank], -rank))
    furthest = table[source][0]
    if furthest < 0:
        return trained, None
    if step < furthest:
        overwriting()
    given = replace(mine, first=False) if mine is not None and ranks.rank == source else None
    common = ranks.agreed(given, source)
    if any(own < furthest for own, _ in table):
        trained = _spread(trained, source)
    return trained, common


def _spread(trained: Trained, source: int) -> Trained:
    """Give all ranks the tensors of one."""
    ranks = trained.ranks
    gives = ranks.rank == source
    entries = tensor_layout.arrange(tensor_layout.pieces_of(trained))[0] if gives else []
    scaler = trained.scaler.state_dict() if gives and trained.scaler is not None else None
    entries, scaler, base = ranks.agreed((entries, scaler, trained.base), source)
    trained = replace(trained, base=base)
    if not gives:
        trained.optimizer.state.clear()
        tensor_layout.create_optimizer_state(trained, _without_data(entries))
        if scaler is not None and trained.scaler is not None:
            trained.scaler.load_state_dict(scaler)
    for chunk in _chunks(_tensors(trained)):
        _send(chunk, ranks, source)
    trained.weights_changed()
    return trained


def _without_data(entries: Sequence[TensorRows]) -> Saved:
    nothing = torch.empty(0, dtype=torch.uint8)
    return {entry.name: [(entry, nothing)] for entry in entries}


def _tensors(trained: Trained) -> Iterator[Tensor]:
    """The tensors of the run's state, and frozen weights, in the same order on all ranks."""
    for piece in sorted(tensor_layout.pieces_of(trained), key=_name):
        yield piece.local
    if trained.base is not None:
        for _, weight in trained.lm.named_parameters():
            if not weight.requires_grad:
                yield weight.detach()


def _name(piece: Piece) -> str:
    return piece.name


def _chunks(tensors: Iterator[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one type on one device that are sent together."""
    chunk: list[Tensor] = []
    for tensor in tensors:
        alike = not chunk or (tensor.dtype, tensor.device) == (chunk[0].dtype, chunk[0].device)
        if chunk and (not alike or sum(one.nbytes for one in chunk) + tensor.nbytes > CHUNK):
            yield chunk
            chunk = []
        chunk.append(tensor)
    if chunk:
        yield chunk


def _send(chunk: Sequence[Tensor], ranks: Ranks, source: int) -> None:
    """Overwrite the tensors of a chunk by those of the rank `source`, in one exchange."""
    if len(chunk) == 1 and chunk[0].is_contiguous():
        ranks.give(chunk[0], source)
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in chunk])
    ranks.give(flat, source)
    parts = torch.split(flat, [tensor.numel() for tensor in chunk])
    for tensor, part in zip(chunk, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
