"""Move a run's files aside, so that its name is free for a new start."""

from __future__ import annotations

from itertools import count

from manta.config.errors import RunError
from manta.storage.exclusive import is_free
from manta.storage.place import Place, move
from manta.storage.store import reason


def set_aside(run: Place) -> Place | None:
    """Rename a run's folder to a free name beside it; returns the new place.

    Returns None if there was no such folder.

    Raises:
        RunError: if a driver is at work on the run, or the storage fails.
    """
    try:
        if not run.exists():
            return None
        if not is_free(run):
            raise RunError(f"{run}: another driver is at work on this run: stop it first")
        names = (run.parent / f"{run.name}.before-{number}" for number in count(1))
        target = next(place for place in names if not place.exists())
        move(run, target)
    except OSError as error:
        raise RunError(
            f"{run}: can't be renamed: {reason(error)}; repair the storage, or choose another "
            "run.name"
        ) from None
    return target
