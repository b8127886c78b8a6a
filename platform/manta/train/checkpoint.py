"""Durable checkpoints: written aside while training goes on, then marked whole.

``checkpoints/step-000000000120/`` holds the state after step 120: Torch's distributed
checkpoint of model and optimizer, readable at any world size, and ``state.json`` with
the cursor and the sizes of all files. A folder under its final name is whole unless it
was damaged later, which the sizes tell. All ranks write; the first one commits. A save that
fails, as on a full disk, leaves nothing behind, and training goes on.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from manta.corpus.atomic import sync_folder
from manta.train.engine import Engine
from manta.train.saved import ASIDE, PREFIX, STATE, TrainState, name_of, read_state, whole

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class _Pending:
    """A checkpoint that is being written."""

    done: Future[Any]
    state: TrainState
    aside: Path
    before_commit: Callable[[Path], None]
    began: float


class Checkpoints:
    """The checkpoints of a run, seen from one rank.

    Args:
        folder: ``<run>/checkpoints``, on storage that all ranks share.
        engine: whose state is saved and loaded.
        keep: the newest ones to keep; the one with the best validation loss is kept too.
        pinned: the steps whose checkpoints are kept beside these, and are not counted.
        on_done: called on the first rank after each commit, with the state, the path and the
            seconds since the save began.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        *,
        keep: int,
        pinned: Set[int] = frozenset(),
        on_done: Callable[[TrainState, Path, float], None],
    ):
        self.folder, self._engine, self._keep = folder, engine, keep
        self._pinned = {name_of(step) for step in pinned}
        self._on_done = on_done
        self._pending: _Pending | None = None
        self._problem: str | None = None
        # Saving talks among ranks in the background: it needs a group of its own.
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        if engine.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(f"{ASIDE}*"):
                shutil.rmtree(leftover)
        self._barrier()

    def save(self, state: TrainState, before_commit: Callable[[Path], None]) -> None:
        """Begin to save; returns once the state is copied off the device.

        Args:
            state: what goes with the weights.
            before_commit: called on the first rank with the folder, just before it gets its
                final name, so that what belongs to the checkpoint is on storage first.
        """
        self.wait()
        began = time.perf_counter()
        aside = self.folder / f"{ASIDE}{name_of(state.step)}"
        done = self._write(_content(self._engine), aside)
        self._pending = _Pending(done, state, aside, before_commit, began)
        self.poll()

    def _write(self, content: dict[str, Any], aside: Path) -> Future[Any]:
        """Write `content` into a new folder; all ranks end with the same error if one fails."""
        if self._group is not None:
            saved = state_dict_saver.async_save(
                content, checkpoint_id=aside, process_group=self._group
            )
            assert isinstance(saved, Future)  # the other kind belongs to an async stager
            return saved
        done: Future[Any] = Future()
        try:
            aside.mkdir()
            with _alone():
                state_dict_saver.save(content, checkpoint_id=aside, no_dist=True)
            done.set_result(None)
        except (OSError, CheckpointException) as error:
            done.set_exception(error)
        return done

    def poll(self) -> None:
        """Commit the pending checkpoint if it is written. Cheap; call it at each step."""
        if self._pending is not None and self._pending.done.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the pending checkpoint, if any, and commit it; warn if that fails."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        self._problem = None
        try:
            pending.done.result()
            if self._engine.rank == 0:
                self._commit(pending)
        except (OSError, CheckpointException) as error:
            self._problem = reason(error)
            if self._engine.rank == 0:
                self._give_up(pending)

    def problem(self) -> str | None:
        """Why the newest save failed, if it did. Waits for it; all ranks must call together."""
        self.wait()
        return self.agreed(self._problem)

    def _give_up(self, pending: _Pending) -> None:
        shutil.rmtree(pending.aside, ignore_errors=True)
        log.warning(
            "the checkpoint of step %d can't be written to %s (%s): free some room or mend the "
            "storage. The checkpoints before it are whole",
            pending.state.step,
            self.folder,
            self._problem,
        )

    def _commit(self, pending: _Pending) -> None:
        state, aside = pending.state, pending.aside
        final = self.folder / name_of(state.step)
        pending.before_commit(aside)
        files = {p.name: p.stat().st_size for p in aside.iterdir() if p.name != STATE}
        content = {"state": asdict(state), "world_size": self._engine.world_size, "files": files}
        _write_synced(aside / STATE, json.dumps(content, indent=1))
        if final.exists():  # damaged, or it would have been resumed from
            shutil.rmtree(final)
        os.rename(aside, final)
        sync_folder(self.folder)
        self._on_done(state, final, time.perf_counter() - pending.began)
        self._prune()

    def _prune(self) -> None:
        kept = whole(self.folder)
        scored = [(s.val_loss, p) for p in kept if (s := read_state(p)).val_loss is not None]
        best = min(scored)[1] if scored else None
        for path in [path for path in kept if path.name not in self._pinned][: -self._keep]:
            if path != best:
                shutil.rmtree(path)

    def load_newest(self) -> TrainState:
        """Load the newest whole checkpoint, or the one before it where that fails.

        All ranks must call together. Without any checkpoint this is the initial state.
        """
        for name in self.agreed([path.name for path in reversed(self._candidates())]):
            path = self.folder / name
            try:
                load(path, self._engine)
            except (Exception, CheckpointException) as error:
                log.warning(
                    "checkpoint %s can't be loaded (%s): trying the one before", path, reason(error)
                )
                continue
            return read_state(path)
        return TrainState()

    def newest_step(self) -> int:
        """The step of the newest whole checkpoint, 0 without one. All ranks must call together."""
        names = self.agreed([path.name for path in self._candidates()[-1:]])
        return int(names[0].removeprefix(PREFIX)) if names else 0

    def _candidates(self) -> list[Path]:
        return whole(self.folder) if self._engine.rank == 0 else []

    def step_before(self, wanted: int, bad: int) -> int:
        """The step of the newest whole checkpoint up to `wanted`.

        Of the oldest before the step `bad` if there is none, and 0 without any of these. All
        ranks must call together.
        """
        steps = [read_state(path).step for path in self._candidates()]
        return self.agreed(
            max(
                (step for step in steps if step <= wanted),
                default=min((step for step in steps if step < bad), default=0),
            )
        )

    def discard(self, void: Callable[[TrainState], bool]) -> None:
        """Remove the checkpoints whose state is void. All ranks must call together."""
        if self._engine.rank == 0:
            for path in whole(self.folder):
                if void(read_state(path)):
                    aside = self.folder / f"{ASIDE}{path.name}"  # never half there by its name
                    os.rename(path, aside)
                    shutil.rmtree(aside)
            sync_folder(self.folder)
        self._barrier()

    def agreed(self, value: T) -> T:
        """The first rank's value, on all ranks."""
        if self._group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def _barrier(self) -> None:
        if self._group is not None:
            dist.barrier(self._group)


def load(checkpoint: Path, engine: Engine) -> None:
    """Load model and optimizer from a checkpoint made at any world size, in place."""
    content = _content(engine)
    with _alone():
        state_dict_loader.load(content, checkpoint_id=checkpoint, no_dist=not dist.is_initialized())
    set_state_dict(
        engine.lm,
        engine.raw_optimizer,
        model_state_dict=content["model"],
        optim_state_dict=content["optimizer"],
    )
    if engine.accelerator.scaler is not None:
        engine.accelerator.scaler.load_state_dict(content["scaler"])


def load_model(checkpoint: Path, lm: nn.Module) -> None:
    """Load the weights alone into an unsharded model, in this one process."""
    weights = get_model_state_dict(lm, options=StateDictOptions())
    with _alone():
        state_dict_loader.load({"model": weights}, checkpoint_id=checkpoint, no_dist=True)
    lm.load_state_dict(weights)


def _content(engine: Engine) -> dict[str, Any]:
    model, optimizer = get_state_dict(engine.lm, engine.raw_optimizer)
    content: dict[str, Any] = {"model": model, "optimizer": optimizer}
    if engine.accelerator.scaler is not None:
        content["scaler"] = engine.accelerator.scaler.state_dict()
    return content


def reason(error: BaseException) -> str:
    """Why a save or load failed, in one line; Torch collects the failures of all ranks."""
    if isinstance(error, CheckpointException) and error.failures:
        error = min(error.failures.items())[1][0]
    return f"{type(error).__name__}: {error}".splitlines()[0]


@contextmanager
def _alone() -> Iterator[None]:
    """Torch warns of a save or load in a single process; here it is meant so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_rows(folder: Path, rows: list[Mapping[str, Any]]) -> None:
    """Put metric rows beside a checkpoint, from which a lost tail of the log is refilled."""
    _write_synced(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows that `write_rows` put beside a checkpoint."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]
