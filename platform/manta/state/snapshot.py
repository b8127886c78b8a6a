"""Snapshots in memory that outlives the workers: a restart loses a few steps at most.

A snapshot is what a checkpoint is, model, optimizer, place in the data and journal, copied
to a `Vault` that another process keeps. Each rank fills a buffer with the tensors that only
it has; a header of plain JSON says what lies where. What is replicated comes from the first
rank alone. A snapshot is *whole* when all its parts are there; it is taken only when the one
before it is whole in its second place too, so one whole snapshot outlives any death.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from manta.config.errors import RunError
from manta.state import tensor_layout
from manta.state.checkpoint_files import TrainState
from manta.state.copying import DeviceCopy, HostCopy
from manta.state.journal import COLUMNS, NO_ROWS, Journal, RowTable
from manta.state.loading import check_base
from manta.state.tensor_layout import Piece, Saved
from manta.state.trained import Trained
from manta.state.vault import SnapshotShard, Stamp, Vault

log = logging.getLogger(__name__)

FORMAT = 1
LEDGER = "ledger"
# Of the time between two snapshots, the most that training may be held for one of them.
BUDGET = 0.02
# How long the last snapshot of a group may take to be in its place.
SETTLE_SECONDS = 60.0
# Steps between snapshots where the interval is automatic: FIRST until the cost is known.
FIRST, LONGEST = 3, 1000


@dataclass(frozen=True)
class Restored:
    """What beside weights and optimizer came out of a snapshot.

    Attributes:
        state: the state that training continues from.
        ledger: rows that the ledger on disk may lack; on every rank.
        metrics: rows that the driver may lack.
    """

    state: TrainState
    ledger: RowTable
    metrics: list[dict[str, Any]]

    def ledger_after(self, step: int) -> RowTable:
        """The rows of the steps behind `step`."""
        return self.ledger[self.ledger[:, 0] > step]


class Snapshots:
    """Takes and restores the snapshots of a run, on one rank.

    Args:
        engine: the engine whose state is kept.
        vault: store of the snapshots; None on all ranks for no snapshots.
        attempt: the worker group's number.
        every: steps between snapshots; 0 for none, None to hold training for at most `BUDGET`.
        passing: called with the step in the middle of writing a snapshot.
    """

    def __init__(
        self,
        trained: Trained,
        vault: Vault | None,
        attempt: int,
        every: int | None,
        passing: Callable[[int], None] = lambda step: None,
    ):
        self._trained, self._attempt, self._passing = trained, attempt, passing
        self._ranks = trained.ranks
        self._vault = None if every == 0 else vault
        self._every = every
        self._pace = SnapshotPace()
        self._next: int | None = None
        self._taken: int | None = None
        self._whole: Stamp | None = None
        self._copy = DeviceCopy(trained) if self._ranks.device.type == "cuda" else HostCopy()
        if self._vault is not None:
            self._vault.prepare_with(self._copy.prepare)
        self._commit: tuple[Stamp, bytes] | None = None

    # ---------------------------------------------------------------------- take

    def due(self, step: int) -> bool:
        """Whether a snapshot of `step` is to be taken; the same on all ranks. Call at each step."""
        if self._vault is None:
            return False
        self._commit_if_copied()
        if self._next is None:
            self._next = self._after(step - 1, FIRST)
            self._pace.start(step)
            # Memory takes a moment to get: ask now for what the first snapshot will need.
            self._is_free(tensor_layout.arrange(self._pieces(NO_ROWS))[1])
        return step >= self._next

    def take(self, state: TrainState, journal: Journal) -> bool:
        """Take a snapshot, unless the one before is still being copied to its second place.

        All ranks must call together. On a GPU the copying goes on beside training.
        """
        assert self._vault is not None
        self._pace.hold(state.step)
        tensors = tensor_layout.arrange(self._pieces(NO_ROWS))[1]
        busy = not self._is_free(tensors + 8 * len(COLUMNS) * len(journal) + tensor_layout.ALIGN)
        vote = self._pace.interval() if self._ranks.first else 0
        rows, (waiting, interval) = journal.peek((int(busy), vote))
        if not waiting:
            self._write(state, rows, journal.unrecorded())
            # Only taken once the one before is in all its places.
            self._whole = self._whole if self._taken is None else Stamp(self._taken, self._attempt)
            self._taken = state.step
        self._pace.release(state.step, taken=not waiting)
        self._next = self._after(state.step, self._pace.retry if waiting else interval)
        if waiting:
            self._next = min(self._next, state.step + self._pace.retry)
        return not waiting

    def secure(self, state: TrainState, journal: Journal) -> bool:
        """Have a snapshot of `state` in all its places, and wait for it. False if that fails.

        All ranks must call together; the answer is the same on all.
        """
        if self._vault is None:
            return False
        if self._taken != state.step:
            self._settle()
            if self._next is None:
                self.due(state.step)
            if not self.take(state, journal):
                return False
        return not self._ranks.any(not self._settle())

    @property
    def whole(self) -> Stamp | None:
        """A snapshot that is certainly whole, the newest such; the same on all ranks."""
        return self._whole

    def go_on_since(self, stamp: Stamp | None) -> None:
        """Go on, without restoring one, from a group whose snapshots were `whole` up to `stamp`."""
        self._whole = stamp
        if self._vault is not None and stamp is not None:
            self._vault.since(stamp)

    def release(self) -> None:
        """Give back the memory that snapshots were to be written to; those taken stay."""
        if self._vault is not None:
            self._copy.wait()
            self._vault.release()

    def _settle(self) -> bool:
        """Wait for the last snapshot; False if it is lost."""
        assert self._vault is not None
        self._copy.wait()
        self._commit_if_copied()
        return self._commit is None and self._vault.settle(SETTLE_SECONDS)

    def _after(self, step: int, interval: int) -> int:
        """The step of the next snapshot."""
        return step + interval if self._every is None else (step // self._every + 1) * self._every

    @property
    def _contributes(self) -> bool:
        mesh = self._trained.mesh
        return self._ranks.first if mesh is None else mesh.holds_first_copy(self._ranks.rank)

    @property
    def _parts(self) -> int:
        return 1 if self._trained.mesh is None else self._trained.mesh.shards

    def _pieces(self, rows: RowTable) -> list[Piece]:
        """What this rank gives: its own rows; of what all have, the first rank's."""
        if not self._contributes:
            return []
        pieces = tensor_layout.pieces_of(self._trained)
        if self._ranks.first:
            return [*pieces, tensor_layout.piece(LEDGER, torch.from_numpy(rows))]
        return [piece for piece in pieces if piece.split]

    def _is_free(self, size: int) -> bool:
        assert self._vault is not None
        return self._commit is None and (not self._contributes or self._vault.free(size))

    def _write(
        self, state: TrainState, rows: RowTable, metrics: Sequence[Mapping[str, Any]]
    ) -> None:
        assert self._vault is not None
        if not self._contributes:
            return
        pieces = self._pieces(rows)
        entries, size = tensor_layout.arrange(pieces)
        content = {
            "format": FORMAT,
            "state": asdict(state),
            "parts": self._parts,
            "first": self._ranks.first,
            "size": size,
            "entries": tensor_layout.to_json(entries),
            "metrics": metrics,
            "scaler": _scaler_state(self._trained),
            "base": self._trained.base,
        }
        self._copy.start(pieces, entries, self._vault.buffer())
        self._passing(state.step)
        self._commit = (Stamp(state.step, self._attempt), json.dumps(content).encode())
        self._commit_if_copied()

    def _commit_if_copied(self) -> None:
        if self._commit is None or not self._copy.done():
            return
        assert self._vault is not None
        self._pace.also(self._copy.seconds)
        (stamp, header), self._commit = self._commit, None
        self._vault.commit(stamp, self._parts, header)

    # ------------------------------------------------------------------- restore

    def newest(self) -> list[Stamp]:
        """The whole snapshots, newest first; the same on all ranks, which must call together."""
        if self._vault is None:
            return []
        found = sorted(self._vault.whole(), reverse=True) if self._ranks.first else []
        return self._ranks.agreed(found)

    def restore(
        self,
        stamp: Stamp,
        ledger_end: int,
        void: Callable[[TrainState], bool] = lambda state: False,
    ) -> Restored | None:
        """Load model and optimizer from a snapshot made at any world size, in place.

        All ranks must call together. None, with a warning and nothing loaded, if any rank
        finds it damaged, or if its ledger rows don't go on where the ledger on disk ends.

        Args:
            stamp: a stamp returned by `newest`.
            ledger_end: the last step in the ledger on disk. For the first rank.
            void: whether a state may not be gone on from.
        """
        assert self._vault is not None
        problem, content, copies = None, None, []
        try:
            content = _Content.read(self._vault.open(stamp), stamp)
            if content.base is not None and self._trained.base is not None:
                check_base(content.base, self._trained.base)
            if void(content.state):
                raise ValueError("it was left behind by a rewind")
            if self._ranks.first:
                content.check_joins(ledger_end)
            tensor_layout.create_optimizer_state(self._trained, content.saved)
            copies = tensor_layout.plan(tensor_layout.pieces_of(self._trained), content.saved)
        except (ValueError, LookupError, TypeError, RuntimeError, RunError) as error:
            problem = f"{type(error).__name__}: {error}"
            log.warning("the snapshot of step %d can't be used (%s)", stamp.step, problem)
        if self._ranks.any(problem is not None) or content is None:
            self._trained.optimizer.state.clear()
            return None
        for target, source in copies:
            target.copy_(source)
        self._trained.weights_changed()
        if content.scaler is not None and self._trained.scaler is not None:
            self._trained.scaler.load_state_dict(content.scaler)
        self._whole = stamp
        return Restored(content.state, content.ledger, content.metrics)


def _scaler_state(trained: Trained) -> dict[str, Any] | None:
    scaler = trained.scaler
    return None if scaler is None else scaler.state_dict()


@dataclass(frozen=True)
class _Content:
    """A snapshot as it was saved."""

    state: TrainState
    saved: Saved
    ledger: RowTable
    metrics: list[dict[str, Any]]
    scaler: dict[str, Any] | None
    base: int | None

    @classmethod
    def read(cls, shards: Sequence[SnapshotShard], stamp: Stamp) -> _Content:
        """Put the parts together.

        Raises:
            ValueError, LookupError, TypeError: if they are not the parts of this snapshot.
        """
        saved: Saved = {}
        headers = [json.loads(shard.header) for shard in shards]
        for header, shard in zip(headers, shards, strict=True):
            if (header["format"], header["state"]["step"]) != (FORMAT, stamp.step):
                raise ValueError(f"format {header['format']}, step {header['state']['step']}")
            size = min(header["size"], len(shard.data))
            data = torch.frombuffer(shard.data, dtype=torch.uint8)
            for entry in tensor_layout.from_json(header["entries"], size):
                saved.setdefault(entry.name, []).append((entry, data))
        if not headers or len(headers) != headers[0]["parts"]:
            raise ValueError(f"{len(headers)} parts are there")
        [(entry, data)] = saved.pop(LEDGER)
        ledger = entry.view(data).numpy().copy()
        [first] = [header for header in headers if header["first"]]
        state = TrainState(**first["state"])
        return cls(state, saved, ledger, first["metrics"], first["scaler"], first.get("base"))

    def check_joins(self, ledger_end: int) -> None:
        """Refuse rows that don't lead from the ledger's end to this state.

        Raises:
            ValueError: saying where they begin and end.
        """
        steps = self.ledger[:, 0]
        steps = steps[steps > ledger_end]
        if not np.array_equal(steps, np.arange(ledger_end + 1, self.state.step + 1)):
            span = f"steps {steps[0]} to {steps[-1]}" if len(steps) else "no steps"
            raise ValueError(
                f"the ledger ends at step {ledger_end}, and the snapshot of step "
                f"{self.state.step} has rows of {span} after it"
            )


class SnapshotPace:
    """How often a snapshot is worth its price, from what the last ones cost."""

    def __init__(self) -> None:
        self._costs: deque[float] = deque(maxlen=3)  # seconds
        self._steps: deque[float] = deque(maxlen=5)  # seconds a step between two snapshots
        self._held = self._released = 0.0
        self._step = self._skipped = 0
        self._warm = False  # the first snapshot also gets its memory ready, once for all

    def start(self, step: int) -> None:
        """Training goes on after `step`, now."""
        self._step, self._released = step, time.perf_counter()

    def hold(self, step: int) -> None:
        """Training is held after `step`, from now on."""
        self._held = time.perf_counter()
        if step > self._step:
            self._steps.append((self._held - self._released) / (step - self._step))

    def release(self, step: int, *, taken: bool) -> None:
        """Training goes on, with a snapshot `taken` or skipped."""
        self.start(step)
        self._skipped = 0 if taken else self._skipped + 1
        if taken and self._warm:
            self._costs.append(self._released - self._held)
        self._warm = self._warm or taken

    def also(self, seconds: float) -> None:
        """The last snapshot held the device for so long, at worst, after training went on."""
        if self._costs:
            self._costs[-1] += seconds

    def interval(self) -> int:
        """Steps to the next snapshot, such that training is held for at most `BUDGET`."""
        if not self._costs or not self._steps:
            return FIRST
        affordable = statistics.median(self._costs) / (BUDGET * statistics.median(self._steps))
        return min(max(1, math.ceil(affordable)), LONGEST)

    @property
    def retry(self) -> int:
        """Steps to the next try after one that was skipped: ever more, for a lasting cause."""
        return int(min(2 ** min(self._skipped - 1, 30), LONGEST))
