"""What happened: ledger rows since the last checkpoint, metric rows not yet on disk.

Both become durable together with the checkpoint that covers them, so that after a
rollback, or the driver's death, the history has every step exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manta.schedule import Step
from manta.stream.ledger import Ledger, LedgerRow, digest
from manta.stream.plan import RankBatch
from manta.train.checkpoint import write_rows
from manta.train.engine import Engine


class Journal:
    """Collects on every rank; the first one writes.

    `recorded` tells how many of the metric rows given so far the driver has on disk: they
    need no keeping. The others go with each checkpoint, for a driver to come.

    Digests are taken from the ids that this rank feeds to its model, and combined over
    ranks only when a checkpoint is made: no step waits for them.
    """

    def __init__(self, engine: Engine, ledger: Ledger, attempt: int, recorded: Callable[[], int]):
        self._engine, self._ledger, self._attempt = engine, ledger, attempt
        self._recorded, self._forgotten = recorded, 0
        self._steps: list[Step] = []
        self._skipped: set[int] = set()
        self._digests: list[int] = []
        self._metrics: list[Mapping[str, Any]] = []

    def consumed(self, batch: RankBatch) -> None:
        """Note a batch that was just delivered."""
        self._steps.append(batch.step)
        self._digests.append(digest(batch.ids))

    def skip(self, step: int) -> None:
        """Note that the update of a step, by its number, was not applied."""
        self._skipped.add(step)

    def metric(self, row: Mapping[str, Any]) -> None:
        """Note a row of metrics. For the first rank."""
        self._metrics.append(row)

    def seal(self) -> Sealed:
        """Close the stretch since the last call. All ranks must call together."""
        local = np.array(self._digests, dtype=np.uint64).view(np.int64)
        combined = torch.from_numpy(local.copy()).to(self._engine.device)
        # Two's complement: a sum modulo 2^64, whatever the sign.
        self._engine.sum_over_ranks(combined)
        digests = combined.cpu().numpy().view(np.uint64)
        rows = [
            LedgerRow(
                step=step.number,
                first_position=step.first_position,
                last_position=step.first_position + step.batch_size - 1,
                tokens=step.tokens_after,
                world_size=self._engine.world_size,
                attempt=self._attempt,
                digest=int(value),
                skipped=step.number in self._skipped,
            )
            for step, value in zip(self._steps, digests, strict=True)
        ]
        self._steps, self._digests, self._skipped = [], [], set()
        return Sealed(self._ledger, rows, self._unrecorded() if self._engine.rank == 0 else [])

    def _unrecorded(self) -> list[Mapping[str, Any]]:
        recorded = self._recorded()
        del self._metrics[: recorded - self._forgotten]
        self._forgotten = recorded
        return list(self._metrics)


class Sealed:
    """A closed stretch of the journal, to be written with the checkpoint at its end."""

    def __init__(self, ledger: Ledger, rows: list[LedgerRow], metrics: list[Mapping[str, Any]]):
        self._ledger, self._rows, self._metrics = ledger, rows, metrics

    def write(self, checkpoint: Path) -> None:
        """Put ledger rows into the ledger and metric rows beside the checkpoint."""
        write_rows(checkpoint, self._metrics)
        if self._rows:
            self._ledger.append(self._rows)
