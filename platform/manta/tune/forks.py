"""Fork a sweep's trials from their parents' checkpoints, as soon as these are there.

The coordinator asks often, and a store answers slowly. So a fork that was made is remembered, and
a checkpoint that is missing is looked for again only when its parent has made progress, or after
some seconds.
"""

from __future__ import annotations

import time
from pathlib import Path

from manta.record.sweep_state import SweepTrial
from manta.state.checkpoint_files import discard, name_of
from manta.storage.place import Place
from manta.storage.run_folder import CHECKPOINTS
from manta.train.fork import can_fork, fork, is_forked

# Seconds for which a store isn't asked again about a checkpoint that it lacked.
LOOK_SECONDS = 5.0


class Forks:
    """Makes the forks of the sweep at `place`."""

    def __init__(self, place: Place):
        self._place = place
        self._laid: set[str] = set()
        self._missed: dict[str, float] = {}
        self._removed: set[tuple[str, int]] = set()

    def lay(self, trial: SweepTrial) -> bool:
        """Whether a trial is forked; forks it if its parent has the checkpoint."""
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
        """Have `lay` look again: the trial's parent has made progress."""
        self._missed.pop(trial.name, None)

    def remove(self, name: str, step: int) -> None:
        """Remove a checkpoint of a trial, at most once."""
        if (name, step) not in self._removed:
            discard(self._place / name / CHECKPOINTS / name_of(step))
            self._removed.add((name, step))
