"""Checks before anything starts that a run's folder has a state to continue from."""

from __future__ import annotations

from manta.config.errors import RunError
from manta.record.run_state import read_state_if_any
from manta.state.checkpoint_files import RESTART, found_in
from manta.state.skips import is_void, read_skips
from manta.storage.place import Place
from manta.storage.run_folder import CHECKPOINTS, RUN
from manta.storage.store import reason


def check_kept(run: Place) -> None:
    """Refuse to start from step 0 if the record says that there was a checkpoint.

    Whether the existing checkpoints are complete is checked when they are loaded.

    Raises:
        RunError: naming what is missing.
    """
    try:
        state = read_state_if_any(run)
        if state is None or state.checkpoint is None or found_in(run / CHECKPOINTS):
            return
    except OSError as error:
        raise RunError(f"{run}: can't be read: {reason(error)}") from None
    step = state.checkpoint.step
    if is_void(step, (), read_skips(run)):
        return  # a rewind may have removed all checkpoints, and starts from step 0
    raise RunError(
        f"{run / CHECKPOINTS}: there is no checkpoint, but {RUN} names one of step "
        f"{step}: {RESTART}"
    )
