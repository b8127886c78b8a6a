"""The config in a run's folder."""

from __future__ import annotations

from manta.config import RunConfig, load
from manta.config.errors import RunError
from manta.storage.place import Place
from manta.storage.run_folder import CONFIG


def recorded_config(run_dir: Place) -> RunConfig:
    """The config of the run in `run_dir`.

    Raises:
        RunError: if there is no run.
    """
    path = run_dir / CONFIG
    if not path.exists():
        raise RunError(f"{run_dir}: not the directory of a run (there is no {CONFIG} in it)")
    return load(path, RunConfig)
