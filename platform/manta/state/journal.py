"""What happened: ledger rows since the last checkpoint, metric rows not yet on disk.

Both become durable together with the checkpoint that covers them, so that after a
rollback, or the driver's death, the history has every step exactly once. Snapshots in
memory carry a copy of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manta.parallel.ranks import Ranks
from manta.schedule import Step
from manta.state.checkpoint_files import write_rows
from manta.storage.place import Place
from manta.stream.ledger import Ledger, LedgerRow, digest
from manta.stream.plan import RankBatch

# Ledger rows as int64 (rows, fields of LedgerRow); a digest is there as its two's complement.
RowTable = NDArray[np.int64]
COLUMNS = tuple(LedgerRow.__dataclass_fields__)
NO_ROWS: RowTable = np.empty((0, len(COLUMNS)), dtype=np.int64)


class Journal:
    """Collects on every rank; the first one writes.

    `recorded` tells how many of the metric rows given so far the driver has on disk: they
    need no keeping. The others go with each checkpoint, for a driver to come.

    Digests are taken from the ids that this rank feeds to its model, and combined over
    ranks only when a checkpoint or a snapshot is made: no step waits for them, and none is
    combined twice. Rows are kept until they are in the ledger on disk.
    """

    def __init__(self, ranks: Ranks, ledger: Ledger, attempt: int, recorded: Callable[[], int]):
        self._ranks, self._ledger, self._attempt = ranks, ledger, attempt
        self._recorded, self._forgotten = recorded, 0
        self._steps: list[Step] = []
        self._skipped: set[int] = set()
        self._digests: list[int] = []
        self._combined = NO_ROWS
        self._metrics: list[Mapping[str, Any]] = []
        self._in_ledger = 0  # the last step that this journal has put there

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

    def prime(self, rows: RowTable) -> None:
        """Begin with rows of steps before this group's first that the ledger lacks."""
        self._combined = rows

    def __len__(self) -> int:
        """How many ledger rows the next `peek` returns on the first rank, at most."""
        return len(self._combined) + len(self._steps)

    def peek(self, votes: Sequence[int] = ()) -> tuple[RowTable, list[int]]:
        """The rows that are not yet in the ledger, and `votes` summed over ranks.

        All ranks must call together; one collective serves both. Ranks other than the
        first keep no rows and get none.
        """
        local = np.array([*self._digests, *(vote % 2**64 for vote in votes)], dtype=np.uint64)
        summed = torch.from_numpy(local.view(np.int64).copy()).to(self._ranks.device)
        # Two's complement: a sum modulo 2^64, whatever the sign.
        totals: RowTable = self._ranks.sum(summed).cpu().numpy()
        if self._ranks.first and self._steps:
            fresh = [self._row(*pair) for pair in zip(self._steps, totals, strict=False)]
            self._combined = np.concatenate([self._combined, np.array(fresh, dtype=np.int64)])
        self._combined = self._combined[self._combined[:, 0] > self._in_ledger]
        count = len(self._steps)
        self._steps, self._digests, self._skipped = [], [], set()
        return self._combined, totals[count:].tolist()

    def _row(self, step: Step, total: np.int64) -> tuple[int, ...]:
        last = step.first_position + step.batch_size - 1
        row = LedgerRow(
            step=step.number,
            first_position=step.first_position,
            last_position=last,
            tokens=step.tokens_after,
            world_size=self._ranks.world_size,
            attempt=self._attempt,
            digest=int(total),
            skipped=step.number in self._skipped,
        )
        return astuple(row)

    def seal(self) -> Sealed:
        """Close the stretch up to here. All ranks must call together."""
        rows, _ = self.peek()
        return Sealed(self, rows, self.unrecorded())

    def flush(self, rows: RowTable) -> None:
        """Put those of `rows` into the ledger that are not there. May be called in another thread.

        Of two stretches that were sealed before the first was written, the second begins
        where the first one ends.
        """
        rows = rows[rows[:, 0] > self._in_ledger]
        self._ledger.append(ledger_rows(rows))
        if len(rows):
            self._in_ledger = int(rows[-1, 0])

    def ledger_digest(self) -> str:
        """The digest of the ledger's chain, as far as it is on disk."""
        return self._ledger.chain()

    def unrecorded(self) -> list[Mapping[str, Any]]:
        """The metric rows that the driver may not have; none on other ranks than the first."""
        if not self._ranks.first:
            return []
        recorded = self._recorded()
        del self._metrics[: recorded - self._forgotten]
        self._forgotten = recorded
        return list(self._metrics)


class Sealed:
    """A closed stretch of the journal, to be written with the checkpoint at its end.

    Its rows stay in the journal until then: a snapshot in between must carry them too.
    """

    def __init__(self, journal: Journal, rows: RowTable, metrics: list[Mapping[str, Any]]):
        self._journal, self._rows, self._metrics = journal, rows, metrics

    def write(self, checkpoint: Place) -> str:
        """Put ledger rows into the ledger and metric rows beside the checkpoint.

        Returns:
            The digest of the ledger as it is then.
        """
        write_rows(checkpoint, self._metrics)
        self._journal.flush(self._rows)
        return self._journal.ledger_digest()


def ledger_rows(table: RowTable) -> list[LedgerRow]:
    """The rows of a table as the ledger has them."""
    return [
        LedgerRow(**{**row, "digest": row["digest"] % 2**64, "skipped": bool(row["skipped"])})
        for row in (dict(zip(COLUMNS, values, strict=True)) for values in table.tolist())
    ]
