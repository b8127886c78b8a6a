"""Durable checkpoints: written while training goes on, then marked whole.

``checkpoints/step-000000000120/`` holds the state after step 120: Torch's distributed
checkpoint of model and optimizer, readable at any world size, and ``state.json`` with
the cursor and the sizes of all files. On a disk it is written aside and renamed; in a store,
which renames nothing, it gets ``state.json`` last and counts from then on. Either way it is
whole unless it was damaged later, which the sizes tell. All ranks write; the first one commits.
A save that fails, as on a full disk, leaves nothing behind, and training goes on.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

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

from manta.config.errors import RunError
from manta.storage.atomic import sync_folder
from manta.storage.place import ASIDE, Place, put, size_so_far, tree
from manta.train import saved
from manta.train.dcp import Planner, Reader, Writer
from manta.train.engine import EXCHANGE_LIMIT, Engine
from manta.train.saved import PREFIX, STATE, TrainState, name_of, read_stamp, read_state, whole

log = logging.getLogger(__name__)
T = TypeVar("T")
# How often a save that is waited for is looked at.
LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class _Pending:
    """A checkpoint that is being written; `done` is when it counts, on the first rank."""

    done: Future[Any]
    state: TrainState
    began: float


class Checkpoints:
    """The checkpoints of a run, seen from one rank.

    Args:
        folder: ``<run>/checkpoints``, on storage that all ranks share.
        engine: whose state is saved and loaded.
        keep: the newest ones to keep; the one with the best validation loss is kept too.
        pinned: the steps whose checkpoints are kept beside these, and are not counted.
        on_done: called on the first rank after each commit, with the state, the place and the
            seconds since the save began.
        on_progress: called now and then while a save is waited for that gets on.
    """

    def __init__(
        self,
        folder: Place,
        engine: Engine,
        *,
        keep: int,
        pinned: Set[int] = frozenset(),
        on_done: Callable[[TrainState, Place, float], None],
        on_progress: Callable[[], None] = lambda: None,
    ):
        self.folder, self._engine, self._keep = folder, engine, keep
        self._pinned = {name_of(step) for step in pinned}
        self._on_done, self._on_progress = on_done, on_progress
        self._pending: _Pending | None = None
        self._problem: str | None = None
        self._group = _background_group() if dist.is_initialized() else None
        self._background = ThreadPoolExecutor(1, "manta-commit")
        if engine.rank == 0:
            self._remove_leftovers()
        self._barrier()

    def _remove_leftovers(self) -> None:
        """What a group that died was writing. Its workers are gone, or will fail to finish it."""
        if isinstance(self.folder, Path):
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(f"{ASIDE}*"):
                shutil.rmtree(leftover)
            return
        for name, files in saved.found_in(self.folder).items():
            if STATE not in files:
                path = self.folder / name
                log.warning("checkpoint %s was not finished, or lost its %s: removed", path, STATE)
                saved.discard(path)

    def save(self, state: TrainState, before_commit: Callable[[Place], None]) -> None:
        """Begin to save; returns once the state is copied off the device.

        Args:
            state: what goes with the weights.
            before_commit: called on the first rank with the folder, in the background and just
                before the checkpoint counts, so that what belongs to it is on storage first.
        """
        self.wait()
        began = time.perf_counter()
        folder = self._written_in(state.step)
        done = self._write(_content(self._engine), folder)
        if self._engine.rank == 0:
            done = self._then(done, folder, lambda: self._commit(state, before_commit, folder))
        self._pending = _Pending(done, state, began)
        self.poll()

    def _written_in(self, step: int) -> Place:
        """The folder to which a checkpoint's files are written."""
        aside = ASIDE if isinstance(self.folder, Path) else ""
        return self.folder / f"{aside}{name_of(step)}"

    def _write(self, content: dict[str, Any], folder: Place) -> Future[Any]:
        """Write `content` into a new folder; all ranks end with the same error if one fails."""
        where: dict[str, Any] = (
            {"checkpoint_id": folder}
            if isinstance(folder, Path)
            else {"storage_writer": Writer(folder)}
        )
        if self._group is not None:
            saving = state_dict_saver.async_save(content, process_group=self._group, **where)
            assert isinstance(saving, Future)  # the other kind belongs to an async stager
            return saving
        done: Future[Any] = Future()
        try:
            if isinstance(folder, Path):
                folder.mkdir()
            with _alone():
                state_dict_saver.save(content, no_dist=True, **where)
            done.set_result(None)
        except (OSError, CheckpointException) as error:
            done.set_exception(error)
        return done

    def _then(self, written: Future[Any], folder: Place, commit: Callable[[], None]) -> Future[Any]:
        """Commit once all is written, or clear up: beside training, as storage may be slow."""

        def finish() -> None:
            try:
                written.result()
                commit()
            except (OSError, CheckpointException):
                self._clear(folder)
                raise

        if self._group is not None:
            return self._background.submit(finish)
        done: Future[Any] = Future()
        try:
            finish()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)
        return done

    def poll(self) -> None:
        """Take note of the pending checkpoint if it is whole. Cheap; call it at each step."""
        if self._pending is not None and self._pending.done.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the pending checkpoint, if any, is whole; warn if that fails."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        self._problem = None
        try:
            self._await(pending)
        except (OSError, CheckpointException) as error:
            self._problem = reason(error)
        if self._engine.rank != 0:
            return
        if self._problem is not None:
            self._give_up(pending.state.step)
            return
        final = self.folder / name_of(pending.state.step)
        self._on_done(pending.state, final, time.perf_counter() - pending.began)

    def _await(self, pending: _Pending) -> None:
        """Return once it counts; one whose files have grown since the last look gets on."""
        folder, before = self._written_in(pending.state.step), 0
        while not futures.wait([pending.done], LOOK_SECONDS).done:
            if (size := size_so_far(folder)) != before:
                before = size
                self._on_progress()
        pending.done.result()

    def problem(self) -> str | None:
        """Why the newest save failed, if it did. Waits for it; all ranks must call together."""
        self.wait()
        return self.agreed(self._problem)

    def _give_up(self, step: int) -> None:
        log.warning(
            "the checkpoint of step %d can't be written to %s (%s): free some room or mend the "
            "storage. The checkpoints before it are whole",
            step,
            self.folder,
            self._problem,
        )

    def _clear(self, folder: Place) -> None:
        """Leave nothing of a checkpoint that could not be written, as far as that can be."""
        if isinstance(folder, Path):
            shutil.rmtree(folder, ignore_errors=True)
            return
        with suppress(OSError):
            saved.discard(folder)

    def _commit(
        self, state: TrainState, before_commit: Callable[[Place], None], folder: Place
    ) -> None:
        before_commit(folder)
        content = {
            "state": asdict(state),
            "world_size": self._engine.world_size,
            "files": {name: size for name, size in tree(folder).items() if name != STATE},
            "stamp": uuid.uuid4().hex,
        }
        put(folder / STATE, json.dumps(content, indent=1).encode())
        if isinstance(folder, Path):
            final = folder.with_name(name_of(state.step))
            if final.exists():  # damaged, or it would have been resumed from
                shutil.rmtree(final)
            os.rename(folder, final)
            sync_folder(folder.parent)
        self._prune()

    def _prune(self) -> None:
        kept = whole(self.folder)
        states = [read_state(path) for path in kept]
        scored = [
            (state.val_loss, path)
            for state, path in zip(states, kept, strict=True)
            # Losses of other samples, as an older version took them, can't be compared.
            if state.val_loss is not None and state.eval_sample == states[-1].eval_sample
        ]
        best = min(scored)[1] if scored else None
        for path in [path for path in kept if path.name not in self._pinned][: -self._keep]:
            if path != best:
                saved.discard(path)

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

    def _candidates(self) -> list[Place]:
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
                    saved.discard(path)
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


def _background_group() -> dist.ProcessGroup:
    """For what saving has to say among ranks beside training, whose exchanges it must not meet."""
    everyone = dist.group.WORLD
    assert everyone is not None
    if everyone.size() == 1 and dist.get_backend() == "gloo":
        # Alone there are no others to meet, and each group of Gloo's wakes 100 times a second.
        return everyone
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=EXCHANGE_LIMIT))


def load(checkpoint: Place, engine: Engine) -> None:
    """Load model and optimizer from a checkpoint made at any world size, in place."""
    content = _content(engine)
    _read_into(content, checkpoint, no_dist=not dist.is_initialized())
    set_state_dict(
        engine.lm,
        engine.raw_optimizer,
        model_state_dict=content["model"],
        optim_state_dict=content["optimizer"],
    )
    if engine.accelerator.scaler is not None:
        engine.accelerator.scaler.load_state_dict(content["scaler"])


def load_model(checkpoint: Place, lm: nn.Module) -> None:
    """Load the weights alone into an unsharded model, in this one process.

    Raises:
        RunError: if the checkpoint can't be loaded.
    """
    weights = get_model_state_dict(lm, options=StateDictOptions())
    try:
        _read_into({"model": weights}, checkpoint, no_dist=True)
    except (OSError, CheckpointException) as error:
        raise RunError(
            f"{checkpoint}: can't be loaded: {reason(error)}; take another checkpoint"
        ) from None
    lm.load_state_dict(weights)


def _read_into(content: dict[str, Any], checkpoint: Place, *, no_dist: bool) -> None:
    """Fill the tensors of `content`, on each rank, from a checkpoint."""
    reader = Reader(checkpoint, read_stamp(checkpoint))
    with _alone():
        state_dict_loader.load(content, storage_reader=reader, planner=Planner(), no_dist=no_dist)


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


def write_rows(folder: Place, rows: list[Mapping[str, Any]]) -> None:
    """Put metric rows beside a checkpoint, from which a lost tail of the log is refilled."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    put(folder / "metrics.jsonl", text.encode())


def read_rows(folder: Place) -> list[dict[str, Any]]:
    """The rows that `write_rows` put beside a checkpoint."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]
