"""What happened since the last checkpoint: ledger rows and metric rows.

Both become durable together with the checkpoint that covers them, so that after a
rollback the history has every step exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping
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

    Digests are taken from the ids that this rank feeds to its model, and combined over
    ranks only when a checkpoint is made: no step waits for them.
    """

    def __init__(self, engine: Engine, ledger: Ledger, attempt: int):
        self._engine, self._ledger, self._attempt = engine, ledger, attempt
        self._steps: list[Step] = []
        self._digests: list[int] = []
        self._metrics: list[Mapping[str, Any]] = []

    def consumed(self, batch: RankBatch) -> None:
        """Note a batch that has just been trained on."""
        self._steps.append(batch.step)
        self._digests.append(digest(batch.ids))

    def metric(self, row: Mapping[str, Any]) -> None:
        """Note a row of metrics."""
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
            )
            for step, value in zip(self._steps, digests, strict=True)
        ]
        sealed = Sealed(self._ledger, rows, self._metrics)
        self._steps, self._digests, self._metrics = [], [], []
        return sealed


class Sealed:
    """A closed stretch of the journal, to be written with the checkpoint at its end."""

    def __init__(self, ledger: Ledger, rows: list[LedgerRow], metrics: list[Mapping[str, Any]]):
        self._ledger, self._rows, self._metrics = ledger, rows, metrics

    def write(self, checkpoint: Path) -> None:
        """Put ledger rows into the ledger and metric rows beside the checkpoint."""
        write_rows(checkpoint, self._metrics)
        if self._rows:
            self._ledger.append(self._rows)
