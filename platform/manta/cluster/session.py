"""A Ray to work on: the cluster that was named, or one embedded in this process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from manta.cluster.grace import ask_for_time_to_save
from manta.config.errors import RunError

PACKAGE = Path(__file__).resolve().parents[1]
SETTINGS = ("MANTA_CACHE", "MANTA_CACHE_BYTES")


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connect to Ray for the time of the block.

    With an address, or inside a Ray job (RAY_ADDRESS is set there), that cluster is used,
    and the package travels along, so that it need not be installed there. Else a Ray is
    started in this process, for it alone.

    Raises:
        RunError: if the cluster can't be reached.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = cluster_of(address)
    _quiet()
    at_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _connect(address)
        else:
            _start_embedded()
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"the cluster at {address}" if address else "Ray on this machine"
        raise RunError(f"can't reach {where}: {error}") from None
    _handle_sigterm(at_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _handle_sigterm(handler: Any) -> None:
    """Set the handler again that Ray has replaced by one that prints a stack and ends at once."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def cluster_of(address: str | None = None) -> str | None:
    """The cluster that `ray_session` would connect to; None if it would embed a Ray."""
    return address or os.environ.get("RAY_ADDRESS")


def _connect(address: str) -> None:
    import ray

    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.WARNING,
        runtime_env={"py_modules": [str(PACKAGE)], "env_vars": _settings()},
    )
    ask_for_time_to_save()


def _settings() -> dict[str, str]:
    """What is set for Manta here holds for its workers too, wherever they run."""
    return {name: os.environ[name] for name in SETTINGS if name in os.environ}


def _start_embedded() -> None:
    from manta.cluster import embedded

    # Nobody else is to join: a token that only this process and its children know
    # would do the same, but Ray writes it to the user's home folder.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    _make_importable()
    embedded.start()


def _make_importable() -> None:
    """Let Ray's workers import the package from where this process has it."""
    root = str(PACKAGE.parent)
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])


def _quiet() -> None:
    """Library chatter off; what people need is said by Manta."""
    # Ray asks for it in a warning at start; accelerators stay visible to tasks without any.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
