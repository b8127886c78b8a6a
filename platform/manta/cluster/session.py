"""Connect to Ray: to the cluster that was named, or to a Ray started for this process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from manta.cluster.grace import ask_for_time_to_save
from manta.cluster.hush import handlers_kept, hushed, raylets_unheard
from manta.cluster.last_words import watched
from manta.cluster.reach import RAY_ADDRESS, check_head
from manta.cluster.waiting import told
from manta.config.errors import RunError

PACKAGE = Path(__file__).resolve().parents[1]
SETTINGS = ("MANTA_CACHE", "MANTA_CACHE_BYTES")


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connect to Ray for the time of the block.

    With an address, or inside a Ray job (RAY_ADDRESS is set there), that cluster is used, and
    this package is sent to it, so that it need not be installed there. Otherwise a Ray is started
    for this process alone. What Ray itself prints goes to a file among its logs.

    Raises:
        RunError: if the cluster can't be reached, or Ray can't be started.
    """
    if _is_connected():
        yield
        return
    cluster = cluster_of(address)
    _quiet()
    with watched() as watch, hushed() as said, ExitStack() as stack:
        what = f"connecting to Ray at {cluster}" if cluster else "starting Ray"
        with told(what), handlers_kept(), raylets_unheard():
            stack.enter_context(_connected(cluster, address) if cluster else _embedded())
        said.move_to(_logs() / f"manta-driver-{os.getpid()}.err")
        watch.logs_are_in(str(_logs()))
        yield


def cluster_of(address: str | None = None) -> str | None:
    """The cluster that `ray_session` would connect to; None if it would start a Ray."""
    found = address or os.environ.get(RAY_ADDRESS)
    return None if found == "local" else found or None


def _is_connected() -> bool:
    if "ray" not in sys.modules:
        return False
    import ray

    return bool(ray.is_initialized())


@contextmanager
def _connected(cluster: str, given: str | None) -> Iterator[None]:
    check_head(cluster, given)
    import ray

    try:
        ray.init(
            address=cluster,
            log_to_driver=False,
            logging_level=logging.WARNING,
            runtime_env={"py_modules": [str(PACKAGE)], "env_vars": _settings()},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise RunError(f"can't connect to the cluster at {cluster}: {why}") from None
    try:
        ask_for_time_to_save()
        yield
    finally:
        ray.shutdown()


def _logs() -> Path:
    """Folder on this machine with the logs of the Ray that this process is connected to."""
    from ray._private.worker import _global_node

    return Path(_global_node.get_logs_dir_path())


def _settings() -> dict[str, str]:
    """Manta's environment variables of this process, which its workers get too."""
    return {name: os.environ[name] for name in SETTINGS if name in os.environ}


@contextmanager
def _embedded() -> Iterator[None]:
    from manta.cluster.embedded import started

    # A token that only this process and its children know would keep others out as well, but Ray
    # writes it to the user's home folder.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    _make_importable()
    with started():
        yield


def _make_importable() -> None:
    """Let Ray's workers import the package from the folder where this process has it."""
    root = str(PACKAGE.parent)
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])


def _quiet() -> None:
    """Set libraries' loggers to warnings; Manta itself prints what people need."""
    # Without this Ray warns at start. 0: tasks that ask for no accelerator still see all of them.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
