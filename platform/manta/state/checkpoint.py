"""Durable checkpoints: written while training goes on, then marked whole.

``checkpoints/step-000000000120/`` holds the state after step 120: Torch's distributed
checkpoint of model and optimizer, readable at any world size, and ``state.json`` with
the cursor, and size and checksum of each file. On a disk it is written aside and renamed; in a
store, which renames nothing, it gets ``state.json`` last and counts from then on. Either way it is
whole unless it was damaged later, which sizes and checksums tell. All ranks write; the first one
commits. A save that fails, as on a full disk, leaves nothing behind, and training goes on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Set
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException

from manta.config.errors import RunError
from manta.parallel.ranks import BackgroundRanks
from manta.state import checkpoint_files
from manta.state.checkpoint_files import Inventory, TrainState, name_of, read_state, whole
from manta.state.dcp import Writer, share_of
from manta.state.loading import content_of, load, quiet_alone, reason
from manta.state.pruning import Choice, prune
from manta.state.trained import Trained
from manta.storage.atomic import sync_folder
from manta.storage.place import ASIDE, Place, size_so_far, tree
from manta.storage.run_folder import STATE

log = logging.getLogger(__name__)
# How often a save that is waited for is looked at.
LOOK_SECONDS = 5.0
# Called with the folder of a checkpoint before it counts: writes what belongs to it, and returns
# the digest of the ledger up to it.
BeforeCommit = Callable[[Place], str]


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
        trained: model and optimizer, whose state is saved and loaded.
        binding: digest of what the run is trained by, which each checkpoint says.
        keep: the newest ones to keep; the one with the best validation loss is kept too.
        pinned: the steps whose checkpoints are kept beside these, and are not counted.
        awaited: returns the steps of checkpoints that are kept because somebody has yet to look at
            them. For the first rank.
        best: returns the step of the best one; by default of the lowest validation loss. Likewise.
        other_base: returns the step of a checkpoint of the run that this one was forked from, whose
            frozen weights were held in another format; None if there is none. Called where frozen
            weights are not saved and a checkpoint is loaded.
        on_done: called on the first rank after each commit, with the state, the place and the
            seconds since the save began.
        on_progress: called now and then while a save is waited for that gets on.
    """

    def __init__(
        self,
        folder: Place,
        trained: Trained,
        *,
        binding: str,
        keep: int,
        pinned: Set[int] = frozenset(),
        awaited: Choice = lambda there: frozenset(),
        best: Choice | None = None,
        other_base: Callable[[], int | None] = lambda: None,
        on_done: Callable[[TrainState, Place, float], None],
        on_progress: Callable[[], None] = lambda: None,
    ):
        self.folder, self._trained, self._keep = folder, trained, keep
        self._binding = binding
        self._pinned, self._awaited, self._best = pinned, awaited, best
        self._other_base = other_base
        self._on_done, self._on_progress = on_done, on_progress
        self._pending: _Pending | None = None
        self._problem: str | None = None
        self._ranks = trained.ranks
        self._beside = BackgroundRanks(trained.ranks)
        self._background = ThreadPoolExecutor(1, "manta-commit")
        if trained.ranks.first:
            self._remove_leftovers()
        self._beside.barrier()

    def _remove_leftovers(self) -> None:
        """What a group that died was writing. Its workers are gone, or will fail to finish it."""
        if isinstance(self.folder, Path):
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(f"{ASIDE}*"):
                shutil.rmtree(leftover)
            return
        for name, files in checkpoint_files.found_in(self.folder).items():
            if STATE not in files:
                path = self.folder / name
                log.warning("checkpoint %s was not finished, or lost its %s: removed", path, STATE)
                checkpoint_files.discard(path)

    def save(self, state: TrainState, before_commit: BeforeCommit) -> None:
        """Begin to save; returns once the state is copied off the device.

        Args:
            state: the training state that is saved beside the weights.
            before_commit: called on the first rank with the folder, in the background and just
                before the checkpoint counts, so that what belongs to it is on storage first.
        """
        self.wait()
        began = time.perf_counter()
        folder = self._written_in(state.step)
        writer = Writer(folder)
        done = self._write(self._mine(), folder, writer)
        if self._ranks.first:
            done = self._then(
                done, folder, lambda: self._commit(state, before_commit, folder, writer.checksums)
            )
        self._pending = _Pending(done, state, began)
        self.poll()

    def _mine(self) -> dict[str, Any]:
        """What this rank saves: what FSDP gave it, or its share of what all have."""
        content, ranks = content_of(self._trained), self._ranks
        whole_here = not self._trained.sharded
        return share_of(content, ranks.rank, ranks.world_size) if whole_here else content

    def _written_in(self, step: int) -> Place:
        """The folder to which a checkpoint's files are written."""
        aside = ASIDE if isinstance(self.folder, Path) else ""
        return self.folder / f"{aside}{name_of(step)}"

    def _write(self, content: dict[str, Any], folder: Place, writer: Writer) -> Future[Any]:
        """Write `content` into a new folder; all ranks end with the same error if one fails."""
        if self._beside.group is not None:
            saving = state_dict_saver.async_save(
                content, storage_writer=writer, process_group=self._beside.group
            )
            assert isinstance(saving, Future)  # the other kind belongs to an async stager
            return saving
        done: Future[Any] = Future()
        try:
            if isinstance(folder, Path):
                folder.mkdir()
            with quiet_alone():
                state_dict_saver.save(content, storage_writer=writer, no_dist=True)
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

        if self._beside.group is not None:
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
        if not self._ranks.first:
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

    def abandon(self) -> Callable[[], None]:
        """Let go of the process group, without another save.

        Returns:
            Waits for the pending checkpoint's threads; they fail or finish without other ranks
            once the process group is gone.
        """
        pending, background, self._pending = self._pending, self._background, None
        del self._beside

        def ended() -> None:
            if pending is not None:
                futures.wait([pending.done])
            background.shutdown()

        return ended

    def problem(self) -> str | None:
        """Why the newest save failed, if it did. Waits for it; all ranks must call together."""
        self.wait()
        return self._beside.agreed(self._problem)

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
            checkpoint_files.discard(folder)

    def _commit(
        self,
        state: TrainState,
        before_commit: BeforeCommit,
        folder: Place,
        checksums: Mapping[str, str],
    ) -> None:
        chain = before_commit(folder)
        files = {name: size for name, size in tree(folder).items() if name != STATE}
        # What the ranks' writers have not hashed are a few lines, or nothing.
        rest = {name: _sha256(folder / name) for name in files if name not in checksums}
        Inventory(
            state=state,
            files=files,
            checksums={name: {**checksums, **rest}[name] for name in files},
            stamp=uuid.uuid4().hex,
            binding=self._binding,
            chain=chain,
        ).write(folder, self._ranks.world_size)
        if isinstance(folder, Path):
            final = folder.with_name(name_of(state.step))
            if final.exists():  # damaged, or it would have been resumed from
                shutil.rmtree(final)
            os.rename(folder, final)
            sync_folder(folder.parent)
        prune(self.folder, self._keep, self._pinned, self._awaited, self._best)

    def load_newest(self, reached: int) -> TrainState:
        """Load the newest whole checkpoint, or the one before it where that fails.

        All ranks must call together. Without any checkpoint this is the initial state.

        Args:
            reached: the last step of the ledger; what is behind it can't be gone on from. For
                the first rank.

        Raises:
            RunError: if there are checkpoints and none can be loaded.
        """
        found = self._beside.agreed(self._inventories(reached))
        other_base = self._other_base() if found and self._trained.base is not None else None
        problems = {}
        for name, inventory in reversed(found.items()):
            try:
                if isinstance(inventory, str):
                    raise RunError(inventory)
                other = inventory.state.step == other_base
                trained = replace(self._trained, any_base=True) if other else self._trained
                load(self.folder / name, trained, inventory, self._beside.first_of)
            except RunError as error:
                problems[name] = str(error)
                self._pass_over(name, str(error))
                continue
            self._set_aside(problems)
            return inventory.state
        if problems:
            listed = "\n".join(f"  {name}: {problem}" for name, problem in problems.items())
            raise RunError(
                f"{self.folder}: there are checkpoints, but none that the run can go on from:\n"
                f"{listed}\n{checkpoint_files.RESTART}"
            )
        return TrainState()

    def _pass_over(self, name: str, problem: str) -> None:
        if self._ranks.first:
            path = self.folder / name
            log.warning("checkpoint %s can't be used (%s): trying the one before", path, problem)

    def _set_aside(self, names: Iterable[str]) -> None:
        """Have those that were passed over neither counted nor read again, and keep them."""
        if self._ranks.first:
            for name in names:
                checkpoint_files.set_aside(self.folder / name)

    def newest_step(self, reached: int) -> int:
        """The step of the newest checkpoint that seems whole and that the ledger reaches, or 0.

        All ranks must call together; `reached` is as for `load_newest`.
        """
        found = self._beside.agreed(self._inventories(reached))
        steps = (one.state.step for one in found.values() if isinstance(one, Inventory))
        return max(steps, default=0)

    def _inventories(self, reached: int) -> dict[str, Inventory | str]:
        """The checkpoints by name, oldest first, or why one can't be gone on from."""
        if not self._ranks.first:
            return {}
        return {
            name: f"the ledger ends with step {reached}: its later parts are lost"
            if isinstance(found, Inventory) and found.state.step > reached
            else found
            for name, found in checkpoint_files.inventories(self.folder).items()
        }

    def _candidates(self) -> list[Place]:
        return whole(self.folder) if self._ranks.first else []

    def step_before(self, wanted: int, bad: int) -> int:
        """The step of the newest whole checkpoint up to `wanted`.

        Of the oldest before the step `bad` if there is none, and 0 without any of these. All
        ranks must call together.
        """
        steps = [read_state(path).step for path in self._candidates()]
        return self._beside.agreed(
            max(
                (step for step in steps if step <= wanted),
                default=min((step for step in steps if step < bad), default=0),
            )
        )

    def discard(self, void: Callable[[TrainState], bool]) -> None:
        """Remove the checkpoints whose state is void. All ranks must call together."""
        if self._ranks.first:
            for path in whole(self.folder):
                if void(read_state(path)):
                    checkpoint_files.discard(path)
        self._beside.barrier()


def _sha256(file: Place) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
