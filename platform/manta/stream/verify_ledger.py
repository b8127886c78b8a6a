"""Check a ledger's rows by recomputing them from schedule and sample order alone.

Parts are read one at a time and digests recomputed some million samples at a time, so that
memory is bounded whatever the ledger's length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manta.config.errors import RunError
from manta.schedule import Schedule
from manta.storage.place import Place
from manta.stream.ledger import Ledger, digests
from manta.stream.mixed_order import MixedOrder
from manta.stream.order import Order
from manta.stream.verify_chain import ChainCheck, Claims

Ints = NDArray[np.int64]
CHUNK_SAMPLES = 2**20  # ids recomputed at once, unless a single batch is larger
NO_CLAIMS = Claims()
MEANINGS = {
    "first_position": "another batch schedule, or rows from another run",
    "last_position": "another batch schedule, or rows from another run",
    "tokens": "another batch schedule or train.seq_len, or rows from another run",
    "digest": "other samples than the sample order gives: another run.seed, train.seq_len or "
    "corpus, or a row that was changed",
}
REMEDY = (
    "restore config.yaml, run.json and the ledger from a copy; if they are unchanged already, "
    "there is no proof of what the run was trained on from this step on"
)


@dataclass
class Consumed:
    """Facts about a run, from a ledger that was found right.

    Attributes:
        steps, samples, tokens: numbers consumed, skipped steps included.
        world_sizes: world sizes in order of time, without repeats in a row.
        attempts: number of worker groups that have steps in the ledger.
        skipped: the steps whose update was not applied.
        unsealed: the last step that an older version wrote, without digests; 0 if none did.
        by_source: source of the mixture → samples consumed of it; empty without a mixture.
    """

    steps: int = 0
    samples: int = 0
    tokens: int = 0
    world_sizes: list[int] = field(default_factory=list)
    attempts: int = 0
    skipped: list[int] = field(default_factory=list)
    unsealed: int = 0
    by_source: dict[str, int] = field(default_factory=dict)


def verify_ledger(
    ledger: Ledger, schedule: Schedule, order: Order, claims: Claims = NO_CLAIMS
) -> Consumed:
    """Compare every row of a ledger with what schedule and sample order give for its step.

    Steps must count from 1 and positions from 0, without gap or repetition, and the hash chain
    must match.

    Raises:
        RunError: naming the file and the first step that differs, and how.
    """
    plan, consumed, attempts = _Plan(schedule), Consumed(), set[int]()
    if isinstance(order, MixedOrder):
        consumed.by_source = {span.name: 0 for span in order.spans}
    chain = ChainCheck(claims)
    for part in ledger.parts():
        path, table, _ = part
        for ids in _checked_ids(path, table, consumed.steps, plan, order):
            _count(consumed.by_source, ids, order)
        chain.take(part)
        consumed.steps += table.num_rows
        for size in _changes(table["world_size"].to_numpy()):
            if consumed.world_sizes[-1:] != [size]:
                consumed.world_sizes.append(size)
        attempts.update(np.unique(table["attempt"].to_numpy()).tolist())
        skipped = table["skipped"].to_numpy()
        consumed.skipped += table["step"].to_numpy()[skipped].tolist()
    consumed.attempts, consumed.unsealed = len(attempts), chain.unsealed
    consumed.samples = int(plan.bounds(consumed.steps, consumed.steps)[0])
    consumed.tokens = consumed.samples * schedule.seq_len
    return consumed


def _changes(values: NDArray[np.int32]) -> list[int]:
    """The values without repeats in a row."""
    kept = np.append(True, values[1:] != values[:-1])[: len(values)]
    return [int(value) for value in values[kept]]


class _Plan:
    """The batch schedule over arrays of steps."""

    def __init__(self, schedule: Schedule):
        self.steps, self.seq_len = schedule.steps, schedule.seq_len
        self._step = np.array([plateau.step for plateau in schedule.plateaus])
        self._position = np.array([plateau.position for plateau in schedule.plateaus])
        self._batch = np.array([plateau.batch for plateau in schedule.plateaus])

    def bounds(self, begin: int, end: int) -> Ints:
        """The first positions of the steps [begin, end], from 0: shape (end - begin + 1,)."""
        steps = np.arange(begin, end + 1, dtype=np.int64)
        which = np.searchsorted(self._step, steps, side="right") - 1
        found: Ints = self._position[which] + (steps - self._step[which]) * self._batch[which]
        return found


def _count(by_source: dict[str, int], ids: Ints, order: Order) -> None:
    """Add samples to the numbers of their sources, if the order is that of a mixture."""
    if isinstance(order, MixedOrder):
        found = np.bincount(order.sources_of(ids) + 1, minlength=len(order.spans) + 1)[1:]
        for span, count in zip(order.spans, found.tolist(), strict=True):
            by_source[span.name] += count


def _checked_ids(
    path: Place, table: pa.Table, done: int, plan: _Plan, order: Order
) -> Iterator[Ints]:
    """Check the rows of one part, whose first step must be `done` + 1; yields their samples."""
    rows = min(table.num_rows, plan.steps - done)
    bounds = plan.bounds(done, done + rows)
    expected = {
        "step": np.arange(done + 1, done + rows + 1),
        "first_position": bounds[:-1],
        "last_position": bounds[1:] - 1,
        "tokens": bounds[1:] * plan.seq_len,
    }
    scheduled = table.slice(0, rows)
    right = np.ones(rows, dtype=bool)
    for name, values in expected.items():
        right &= scheduled[name].to_numpy() == values
    wrong = int(np.argmin(right)) if not right.all() else rows
    # A digest may differ in an earlier row, and the first difference is to be named.
    for begin, end in pairwise(_cuts(bounds[: wrong + 1])):
        yield _digested(path, table, bounds[begin : end + 1], begin, done, order)
    if wrong < rows:
        _refuse(path, table, wrong, {name: int(values[wrong]) for name, values in expected.items()})
    if rows < table.num_rows:
        raise RunError(
            f"{path}: step {table['step'][rows].as_py()} is after the end of the schedule, which "
            f"has {plan.steps} steps; {REMEDY}"
        )


def _cuts(bounds: Ints) -> list[int]:
    """Rows at which to cut, so that the samples between two cuts fit into a chunk."""
    cuts = [0]
    while cuts[-1] < len(bounds) - 1:
        far = np.searchsorted(bounds, bounds[cuts[-1]] + CHUNK_SAMPLES, side="right") - 1
        cuts.append(max(int(far), cuts[-1] + 1))
    return cuts


def _digested(
    path: Place, table: pa.Table, bounds: Ints, row: int, done: int, order: Order
) -> Ints:
    """The samples of the rows from `row` on, whose batches lie between `bounds`, once checked."""
    ids = order.ids(int(bounds[0]), int(bounds[-1]))
    expected = digests(ids, bounds[:-1] - bounds[0])
    found = table["digest"].slice(row, len(expected)).to_numpy()
    different = np.flatnonzero(found != expected)
    if different.size:
        first = int(different[0])
        _refuse(path, table, row + first, {"step": done + row + first + 1}, int(expected[first]))
    return ids


def _refuse(
    path: Place, table: pa.Table, row: int, expected: dict[str, int], digest: int | None = None
) -> None:
    found = {name: table[name][row].as_py() for name in table.column_names}
    step = expected["step"]
    if found["step"] != step:
        before = found["step"] is not None and found["step"] < step
        what = f"step {found['step']} is repeated" if before else f"step {step} is missing"
        raise RunError(
            f"{path}: {what}: where step {step} belongs, the ledger has step {found['step']}; "
            f"{REMEDY}"
        )
    wanted = {**expected, **({} if digest is None else {"digest": digest})}
    name = next(name for name, value in wanted.items() if found[name] != value)
    raise RunError(
        f"{path}: step {step}: {name} is {found[name]}, but config and manifest give "
        f"{wanted[name]} ({MEANINGS[name]}); {REMEDY}"
    )
