"""Starts workers on this machine with their imports done, as forks of one process.

A worker's imports take about five seconds of CPU time. While Ray starts, one process (the preload
server) imports Torch, Transformers and the engine, and then forks itself for each worker. Ray runs
`cluster/worker_setup` as the Python of workers (by its setting `py_executable`), which asks the
server for a fork, and becomes a normal Python process if there is no server.

A fork imports Ray itself, because Ray reads the environment (with the job's id) when it is loaded.
Workers with accelerators are normal processes, until forks have been tested there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from manta.cluster import worker_setup
from manta.cluster.session import cluster_of
from manta.config.run import RunConfig
from manta.config.scaling import gpus_of
from manta.elastic.worker.environment import runtime_env_of
from manta.storage.socket_folder import socket_folder

# Environment variable with the preload server's socket, its package path and a digest of its
# variables, for drivers started by this one (a sweep's). A driver with another package path starts
# normal workers; one with other variables starts its own server.
VARIABLE = worker_setup.VARIABLE
SOCKET = "socket"
ROOT = worker_setup.ROOT
# Run as a script and never imported here, because its imports are for its own process.
SERVER = Path(__file__).with_name("preload_server.py")
CLIENT = Path(worker_setup.__file__)


def preloaded_for(config: RunConfig, address: str | None) -> AbstractContextManager[None]:
    """`preloaded` for a run whose Ray starts on this machine; does nothing with a cluster."""
    if cluster_of(address):
        return nullcontext()
    return preloaded(config.scaling.resources_per_worker, config.model.type)


@contextmanager
def preloaded(resources: Mapping[str, float], model_type: str | None) -> Iterator[None]:
    """Make workers that start in the block, on this machine, forks of a preload server.

    Args:
        resources: Ray resources of each worker.
        model_type: Transformers' model_type, to import its classes too; None for none.
    """
    # with CUDA or off Linux, libraries may break in a fork
    if gpus_of(resources) or sys.platform != "linux":
        yield
        return
    variables = runtime_env_of(resources)["env_vars"]
    if _is_served(variables):
        yield
        return
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(socket_folder(SOCKET))
            process = _start(folder / SOCKET, variables, model_type)
        except OSError:  # no socket or process can be made: normal workers work, too
            yield
            return
        stack.callback(_end, process)
        stack.enter_context(_named(folder / SOCKET, variables))
        yield


def _is_served(variables: Mapping[str, str]) -> bool:
    """Whether a parent process has a preload server that suits such workers."""
    path, root, digest = _name()
    if root != ROOT or digest != _digest(variables):
        return False
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(path) == 0


@contextmanager
def _named(path: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """Set `VARIABLE` for this process and its children during a block."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = os.pathsep.join([str(path), ROOT, _digest(variables)])
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _start(
    path: Path, environment: Mapping[str, str], model_type: str | None
) -> subprocess.Popen[bytes]:
    """Start the preload server. A request before it is ready waits."""
    script = [sys.executable, "-P", str(SERVER)]
    importable = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(128)
        return subprocess.Popen(
            [*script, str(listener.fileno()), *([model_type] if model_type else [])],
            env={**os.environ, **environment, "PYTHONPATH": importable},
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,  # EOF tells the server that this process has ended
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def python() -> str | None:
    """The command that Ray should run as a worker's Python; None without a preload server."""
    path, root, _ = _name()
    if not path or root != ROOT:
        return None
    return shlex.join([sys.executable, "-I", "-S", str(CLIENT), path])


def _name() -> tuple[str, str, str]:
    """The preload server's socket, package path and digest; empty texts if there is none."""
    path, root, digest = (os.environ.get(VARIABLE, "").split(os.pathsep) + [""] * 3)[:3]
    return path, root, digest


def _digest(variables: Mapping[str, str]) -> str:
    """A digest of the variables with which a preload server is started."""
    return hashlib.sha256(json.dumps(sorted(variables.items())).encode()).hexdigest()[:16]
