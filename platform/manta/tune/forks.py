"""The beginnings of a sweep's trials: which are laid, and which can be now.

It is asked often, and a store answers slowly: what is laid stays so, and what is not yet there
is looked for again when its parent has come forward, or after a while.
"""

from __future__ import annotations

import time
from pathlib import Path

from manta.record.sweep_state import SweepTrial
from manta.state.checkpoint_files import discard, name_of
from manta.storage.place import Place
from manta.storage.run_folder import CHECKPOINTS
from manta.train.fork import can_fork, fork, is_forked

# How long a store's "not there" is believed.
LOOK_SECONDS = 5.0


class Forks:
    """Lays the beginnings of the trials of the sweep that is kept at a place."""

    def __init__(self, place: Place):
        self._place = place
        self._laid: set[str] = set()
        self._missed: dict[str, float] = {}
        self._removed: set[tuple[str, int]] = set()

    def lay(self, trial: SweepTrial) -> bool:
        """Whether a trial's beginning is laid; lays it if it can be."""
        if trial.name in self._laid:
            return True
        if time.monotonic() < self._missed.get(trial.name, 0.0):
            return False
        if not self._can_lay(trial):
            if not isinstance(self._place, Path):
                self._missed[trial.name] = time.monotonic() + LOOK_SECONDS
            return False
        self._laid.add(trial.name)
        trial.tokens = max(trial.tokens, trial.fork_tokens)
        return True

    def _can_lay(self, trial: SweepTrial) -> bool:
        assert trial.parent is not None
        child, parent = self._place / trial.name, self._place / trial.parent
        if is_forked(child):
            return True
        if not can_fork(parent, trial.fork_step):
            return False
        fork(parent, trial.fork_step, trial.fork_tokens, child)
        return True

    def look_again(self, trial: SweepTrial) -> None:
        """Its parent has come forward."""
        self._missed.pop(trial.name, None)

    def remove(self, name: str, step: int) -> None:
        """Remove a checkpoint of a trial that nobody needs any more."""
        if (name, step) not in self._removed:
            discard(self._place / name / CHECKPOINTS / name_of(step))
            self._removed.add((name, step))
