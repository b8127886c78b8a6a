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
from torch import Tensor

from manta.parallel.ranks import Ranks
from manta.schedule import Step
from manta.state.checkpoint_files import write_rows
from manta.storage.place import Place
from manta.stream.ledger import Ledger, LedgerRow, from_bytes

# Ledger rows as int64 (rows, fields of LedgerRow); a digest is there as its two's complement.
RowTable = NDArray[np.int64]
COLUMNS = tuple(LedgerRow.__dataclass_fields__)
# Metric rows that a rank other than the first keeps: more than are ever on their way at once.
UNSENT = 64
NO_ROWS: RowTable = np.empty((0, len(COLUMNS)), dtype=np.int64)


class Journal:
    """Collects on every rank; the first one writes.

    `recorded` tells how many of the metric rows given so far the driver has on disk: they
    need no keeping. The others go with each checkpoint, for a driver to come.

    All ranks keep all rows, until they are in the ledger on disk: whichever rank outlives the
    others has them.
    """

    def __init__(self, ranks: Ranks, ledger: Ledger, attempt: int, recorded: Callable[[], int]):
        self._ranks, self._ledger, self._attempt = ranks, ledger, attempt
        self._recorded, self._forgotten = recorded, 0
        self._steps: list[Step] = []
        self._skipped: set[int] = set()
        self._digests: list[Tensor] = []
        self._combined = NO_ROWS
        self._metrics: list[Mapping[str, Any]] = []
        self._in_ledger = 0  # the last step that the first rank's journal has put there

    def consumed(self, step: Step, digest: Tensor) -> None:
        """Note a step that was just done.

        Args:
            step: the step.
            digest: sums over ranks of `digest_bytes` of what they fed to their models, int64.
        """
        self._steps.append(step)
        self._digests.append(digest)

    def skip(self, step: int) -> None:
        """Note that the update of a step, by its number, was not applied."""
        self._skipped.add(step)

    def metric(self, row: Mapping[str, Any]) -> None:
        """Note a row of metrics.

        Ranks other than the first keep the last ones, which it may not have sent when it dies.
        """
        self._metrics.append(row)
        if not self._ranks.first:
            del self._metrics[:-UNSENT]

    def prime(self, rows: RowTable) -> None:
        """Begin with rows of steps before this group's first that the ledger lacks."""
        self._combined = rows

    def __len__(self) -> int:
        """How many ledger rows the next `peek` returns, at most."""
        return len(self._combined) + len(self._steps)

    def peek(self, votes: Sequence[int] = ()) -> tuple[RowTable, list[int]]:
        """The rows that are not yet in the ledger, and `votes` summed over ranks.

        All ranks must call together.
        """
        numbers = [self._in_ledger if self._ranks.first else 0, *votes]
        device = self._ranks.device
        in_ledger, *totals = self._ranks.sum(torch.tensor(numbers, device=device)).tolist()
        if not self._ranks.first:
            self._in_ledger = in_ledger
        return self.rows(), totals

    def rows(self) -> RowTable:
        """The rows that are not yet in the ledger, as far as this rank knows."""
        if self._steps:
            summed = torch.stack(self._digests).cpu().numpy()
            digests = from_bytes(summed).view(np.int64)
            fresh = [self._row(*pair) for pair in zip(self._steps, digests, strict=True)]
            self._combined = np.concatenate([self._combined, np.array(fresh, dtype=np.int64)])
        self._combined = self._combined[self._combined[:, 0] > self._in_ledger]
        self._steps, self._digests, self._skipped = [], [], set()
        return self._combined

    def unsent(self) -> list[Mapping[str, Any]]:
        """The metric rows that may not have reached the driver, on whichever rank."""
        return list(self._metrics)

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
